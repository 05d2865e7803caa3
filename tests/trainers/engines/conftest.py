"""Gangs of ranks as processes; each plays all that the tests of this folder want to see of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.engines.runs import gangs
from trainers.engines.launch import free_port

ROOT = Path(__file__).parents[3]


def environment(rank, ranks):
    """What torchrun would set, but for the port."""
    where = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    if ranks:
        where |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    return os.environ | where


def start(runs, ranks, folder):
    """The processes of one gang; each engine in it has its own meeting, at its own port."""
    listed = folder / f"runs{ranks}.json"
    listed.write_text(json.dumps(runs))
    ports = {f"PORT_{name}": str(free_port()) for name in {run["engine"] for run in runs}}
    command = [sys.executable, "-m", "tests.trainers.engines.worker", str(folder), str(listed)]
    children = []
    for rank in range(max(1, ranks)):
        env = environment(rank, ranks) | ports
        with (folder / f"log{ranks}.{rank}").open("wb") as log:
            children.append(
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
            )
    return children


def finish(children, ranks, folder):
    try:
        codes = [child.wait(timeout=250) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    said = [(folder / f"log{ranks}.{rank}").read_text()[-2000:] for rank in range(len(codes))]
    assert not any(codes), f"{codes}: {said}"


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """played(NAME): what the first rank found; played(NAME, 1): another one. See `runs`."""
    folder, listed = tmp_path_factory.mktemp("gangs"), gangs()
    for run in (run for runs in listed.values() for run in runs):
        (folder / run["name"]).parent.mkdir(exist_ok=True)
    started = [(ranks, start(runs, ranks, folder)) for ranks, runs in listed.items()]
    for ranks, children in started:
        finish(children, ranks, folder)

    def found(name, rank=0):
        return torch.load(folder / f"{name}.{rank}", weights_only=True)

    return found
