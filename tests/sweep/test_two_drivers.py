"""Two real sweeps on one store, and one that is asked to stop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.support.lease import read_claim
from sweep.running.holding import FOLDER
from trainers.results.trial_journal import read_rows

HOLDER = """
import sys
from sweep.running.holding import holding
with holding(sys.argv[1], ["--grid", "one"], join=False) as hold:
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.faults
def test_of_two_sweeps_started_together_one_leaves_and_names_the_other(tmp_path: Path) -> None:
    """Six at the same moment, on one store with an --out each."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "store")]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(6)
    ]
    held = []
    for process in started:
        assert process.stdout
        if process.stdout.readline() == "held\n":
            held.append(process)
    assert len(held) == 1
    for process in started:
        if process is not held[0]:
            _, said = process.communicate(timeout=60)
            assert f"works on it: process {held[0].pid} on " in said
            assert "(python -m sweep.run --grid one)" in said
    held[0].communicate("\n", timeout=60)
    assert held[0].returncode == 0


def wait_for(condition: Any, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def started(tools: Any) -> Iterator[Callable[..., Any]]:
    """Starts sweeps; those that a failed test leaves are ended."""
    processes: list[Any] = []

    def start(*arguments: Any) -> Any:
        processes.append(tools.start(*arguments))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_that_join_run_each_trial_once_and_stop_together(
    tools: Any, started: Any, tmp_path: Path
) -> None:
    """Four trials, two sweeps of one core each; stopped when both are at work, then continued."""
    epochs = 200
    grid, store = tmp_path / "small.yaml", tmp_path / "one"
    grid.write_text(tools.text.replace("epochs: 2\n", f"epochs: {epochs}\n"))
    options = ("--store", str(store), "--cpus", "1")
    first = started(grid, store, "--cpus", "1")
    wait_for(lambda: read_claim(str(store / FOLDER))[0])
    refused = tools.run(grid, tmp_path / "two", *options)
    assert refused.code == 2
    assert f"process {first.pid} on " in refused.err
    second = started(grid, tmp_path / "two", *options, "--join")

    def at_work() -> int:
        return len({path.parents[2] for path in store.glob("trials/*/checkpoints/step-*/*")})

    wait_for(lambda: at_work() >= 2)
    subprocess.run([sys.executable, "-m", "sweep.stop", str(store)], check=True, timeout=60)
    assert (first.wait(120), second.wait(120)) == (0, 0)
    for name in ("one", "two"):
        said = (tmp_path / f"{name}.log").read_text()
        assert "stopped on request; run the same command again to continue" in said
    before = {path.parent.name for path in store.glob("trials/*/result.json")}
    assert len(before) < 4

    first = started(grid, store, "--cpus", "1")
    wait_for(lambda: read_claim(str(store / FOLDER))[0] == 2)
    joined = tools.run(grid, tmp_path / "two", *options, "--join")
    assert (first.wait(240), joined.code) == (0, 0), joined.err
    results = {p.parent.name: json.loads(p.read_text()) for p in store.glob("trials/*/result.json")}
    assert len(results) == 4
    assert all(len(result["epochs"]) == epochs for result in results.values())
    for folder in (store, tmp_path / "two"):  # each journal has all, once
        found = Counter(event["trial"] for event in tools.events(folder, "result"))
        assert found == dict.fromkeys(results, 1)
        rows = Counter((e["trial"], e["step"]) for e in tools.events(folder, "epoch"))
        assert set(rows.values()) == {1}
        assert len(rows) == 4 * epochs
    # Each process that took a trial went on from what the one before had left: at most two before
    # the stop, as one sweep may pick up what the other has just stopped, and one after it.
    leases = [read_claim(str(store / "trials" / identity / "lease"))[0] for identity in results]
    assert max(leases) <= 3


PAIRS = 20
LEAST = """\
name: least
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  train_samples: 64
  test_samples: 20
  batch_size: 64
  duration: 2 steps
  probes: [spectrum]
  test_arms: []
  adapt_arms: []
seeds: 3
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_of_twenty_pairs_started_together_none_runs_a_trial_twice(
    started: Any, tmp_path: Path
) -> None:
    """Every fourth pair with --join; of the others one is refused, whichever is later."""
    grid, bank = tmp_path / "least.yaml", None
    grid.write_text(LEAST)
    for number in range(PAIRS):
        join = ["--join"] if number % 4 == 3 else []
        folder = tmp_path / str(number)
        store = folder / "store"
        folder.mkdir()
        if bank is not None:
            shutil.copytree(bank, store / "banks")
        options = ("--store", str(store), "--cpus", "1", *join)
        both = [started(grid, folder / name, *options) for name in ("one", "two")]
        codes = sorted(process.wait(600) for process in both)
        said = [(folder / f"{name}.log").read_text() for name in ("one", "two")]
        assert codes == ([0, 0] if join else [0, 2]), said
        assert join or any("a sweep works on it: process" in text for text in said)
        trials = list((store / "trials").iterdir())
        assert len(trials) == 3
        for trial in trials:
            starts = [row for row in read_rows(str(trial)) if row["event"] == "start"]
            assert (len(starts), read_claim(str(trial / "lease"))[0]) == (1, 1), number
        bank = store / "banks"
