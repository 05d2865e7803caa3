"""What a failing MLflow server costs the training of a sweep.

    python benchmarks/mlflow_cost.py             # --repeats N

One sweep of one trial of half a minute or a minute, on one core of two, with a real MLflow server:
one that answers, one that is suspended after the trial's first epoch, and one that is killed then.
A trial never speaks to MLflow, so what a server can cost is the CPU time that the sweep's other
processes take from it. Counted are their CPU seconds from the trial's second epoch to its last, as
a share of that time; compared are the medians. (The time itself differs by more than the limit
from run to run of one kind.) Ends with 1 where a failing server costs more than LIMIT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from ratios import Ratio, finish

LIMIT = 0.01
EPOCHS = 60
GRID = f"""\
name: mlflow-cost
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  epochs: {EPOCHS}
  probes: [spectrum]
  test_arms: []
axes: {{arm: [clean]}}
seeds: 1
"""


def rows_of(out: Path) -> list[int]:
    """Times in milliseconds of the rows of epochs in the journal of the one trial."""
    parts = sorted(out.glob("trials/*/journal/*.jsonl"))
    lines = [line for part in parts for line in part.read_text().split("\n")[:-1]]
    rows = [json.loads(line) for line in lines]
    return [row["time_ms"] for row in rows if row["event"] == "epoch"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def server(place: Path) -> Iterator[tuple[str, int]]:
    """(address, process group) of a real MLflow server."""
    place.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{place}/mlflow.db"]
    command += ["--artifacts-destination", str(place / "artifacts")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven more processes
    with (place / "log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", started.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def others(sweep: psutil.Process) -> dict[int, float]:
    """CPU seconds so far of the sweep's processes without its trial, by process number."""
    found: dict[int, float] = {}
    for process in [sweep, *sweep.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if not any("TrialActor" in part for part in process.cmdline()):
                found[process.pid] = sum(process.cpu_times()[:2])
    return found


def share(grid: Path, place: Path, sign: signal.Signals | None) -> float:
    """CPU seconds of the other processes while the trial trains, over its time. sign: to MLflow."""
    out = place / "run"
    with server(place) as (address, group):
        command = [sys.executable, "-m", "sweep.run", "--grid", str(grid), "--out", str(out)]
        command += ["--cpus", "1", "--tracking-uri", address]
        with (place / "sweep.log").open("w") as log:
            sweep = subprocess.Popen(command, stdout=log, stderr=log)
        while len(rows_of(out)) < 2 and sweep.poll() is None:
            time.sleep(0.05)
        if sign is not None:
            os.killpg(group, sign)
        process, start = psutil.Process(sweep.pid), time.monotonic()
        before = others(process)
        seen = dict(before)  # of those that have ended meanwhile too
        while len(rows_of(out)) < EPOCHS and sweep.poll() is None:
            seen |= others(process)
            time.sleep(0.5)
        wall = time.monotonic() - start
        if sweep.wait():
            raise RuntimeError((place / "sweep.log").read_text()[-1000:])
    assert len(rows_of(out)) == EPOCHS
    return (sum(seen.values()) - sum(before.values())) / wall


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    signals = {"answers": None, "hangs": signal.SIGSTOP, "is killed": signal.SIGKILL}
    found: dict[str, list[float]] = {name: [] for name in signals}
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder, "grid.yaml")
        grid.write_text(GRID)
        for i in range(repeats):
            for name, sign in signals.items():
                place = Path(folder, f"{i}-{name.replace(' ', '-')}")
                found[name].append(share(grid, place, sign))
                print(f"a server that {name}: {found[name][-1]:.4f}", flush=True)
    middle = {name: statistics.median(shares) for name, shares in found.items()}
    own = middle.pop("answers")
    return finish(
        [
            Ratio(
                f"CPU time beside a trial's training that an MLflow server which {name} costs more",
                value - own,
                LIMIT,
                False,
                f"{value:.4f} - {own:.4f} of the trial's time, median of {repeats}",
            )
            for name, value in middle.items()
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
