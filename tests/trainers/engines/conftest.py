"""Gangs of ranks as processes, each playing all that the tests of a module want to see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainers.engines.launch import free_port

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("worker.py")


def environment(rank, ranks):
    """What torchrun would set; a port for each engine, for each has its own meeting."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}


def start(runs, ranks, folder):
    """The processes of one gang, or the one process of engine `single` with 0 ranks."""
    folder.mkdir(exist_ok=True)
    listed = folder / f"runs{ranks}.json"
    listed.write_text(json.dumps(runs))
    base = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    base |= {"MASTER_ADDR": "127.0.0.1"}
    base |= {f"PORT_{name}": str(free_port()) for name in {run["engine"] for run in runs}}
    command = [sys.executable, str(WORKER), str(folder), str(listed)]
    children = []
    for rank in range(max(1, ranks)):
        env = base | (environment(rank, ranks) if ranks else {})
        with (folder / f"log{ranks}.{rank}").open("wb") as log:
            children.append(
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
            )
    return children


def finish(children, ranks, folder):
    try:
        codes = [child.wait(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    said = (folder / f"log{ranks}.0").read_text()[-3000:]
    assert not any(codes), f"{codes}: {said}"


class Played:
    """`played(NAME)`: what the first rank found; `played(NAME, 1)` another one."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name, rank=0):
        return torch.load(self.folder / f"{name}.{rank}", weights_only=True)


@pytest.fixture(scope="session")
def play(tmp_path_factory):
    """play({ranks: runs}): gangs side by side; 0 ranks is engine `single`."""

    def played(gangs):
        folder = tmp_path_factory.mktemp("gangs")
        started = [(ranks, start(runs, ranks, folder)) for ranks, runs in gangs.items()]
        for ranks, children in started:
            finish(children, ranks, folder)
        return Played(folder)

    return played
