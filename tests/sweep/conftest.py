"""A small real sweep, run once; everything that starts one runs it as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

OBJECT_STORE = 80 * 1024 * 1024  # bytes, of each node of a cluster
GRID = (Path(__file__).parents[2] / "examples" / "small.yaml").read_text()
CLAIMS = """
claims:
  - name: the noise arm changes the rank
    kind: difference
    metric: test/rank/effective
    first: {arm: noise:0.1}
    second: {arm: clean}
    where: {student: width:1}
"""


@dataclass(frozen=True)
class Sweep:
    """A finished `python -m sweep.run` and where it ran."""

    folder: Path
    code: int
    out: str
    err: str


def command(grid: Path | str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "sweep.run", "--grid", str(grid), "--out", str(folder), *options]


def run(grid: Path | str, folder: Path, *options: str) -> Sweep:
    ran = subprocess.run(
        command(grid, folder, *options),
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"COLUMNS": "200"},
    )
    return Sweep(folder, ran.returncode, ran.stdout, ran.stderr)


def start(grid: Path | str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """The same in the background, in its own session."""
    log = (folder.parent / f"{folder.name}.log").open("wb")
    with log:
        return subprocess.Popen(
            command(grid, folder, *options),
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )


def events(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """Whole lines of a journal, those of one kind or all."""
    path = folder / "journal.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    lines = [json.loads(line) for line in whole]
    return [line for line in lines if kind in ("", line["event"])]


@dataclass(frozen=True)
class Tools:
    run: Callable[..., Sweep]
    start: Callable[..., subprocess.Popen[bytes]]
    events: Callable[..., list[dict[str, Any]]]
    text: str


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(run, start, events, GRID)


@pytest.fixture(scope="session")
def gone_later() -> Iterator[Callable[[list[psutil.Process]], None]]:
    """Takes processes that must have ended 70 s later, which is checked after all tests."""
    named: list[tuple[float, list[psutil.Process]]] = []
    yield lambda processes: named.append((time.monotonic() + 70, processes))
    for deadline, processes in named:
        gone, left = psutil.wait_procs(processes, max(0, deadline - time.monotonic()))
        assert len(gone) == len(processes), left


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grid") / "small.yaml"
    path.write_text(GRID)
    path.with_suffix(".claims.yaml").write_text(CLAIMS)
    return path


@pytest.fixture(scope="session")
def swept(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The small sweep, undisturbed: 4 trials. Run once; each process of the tests has a copy."""
    own = tmp_path_factory.mktemp("swept") / "run"
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "swept.lock"):
        made = shared / "swept.json"
        if not made.exists():
            ran = run(grid, shared / "swept-run")
            made.write_text(json.dumps([ran.code, ran.out, ran.err]))
    shutil.copytree(shared / "swept-run", own)
    return Sweep(own, *json.loads(made.read_text()))


@contextlib.contextmanager
def started_cluster() -> Iterator[Any]:
    """A Ray cluster of a head without a CPU, as cluster.yaml describes one, and two workers."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    temporary = tempfile.mkdtemp(prefix="rc-")  # socket paths must stay short
    patch.setenv("RAY_TMPDIR", temporary)
    Path(temporary, "ray").mkdir()
    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    try:
        yield cluster
    finally:
        cluster.shutdown()
        patch.undo()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def cluster() -> Iterator[Any]:
    with started_cluster() as cluster:
        yield cluster
