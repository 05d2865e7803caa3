"""Two real sweeps on one store, and one that is asked to stop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shards.support.lease import read_claim
from sweep.running.holding import FOLDER

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


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.thorough
def test_two_that_join_run_each_trial_once_and_stop_together(tools: Any, tmp_path: Path) -> None:
    """Four trials, two sweeps of one core each; stopped when both are at work, then continued."""
    grid, store = tmp_path / "small.yaml", tmp_path / "one"
    grid.write_text(tools.text.replace("epochs: 2\n", "epochs: 60\n"))
    options = ("--store", str(store), "--cpus", "1")
    first = tools.start(grid, store, "--cpus", "1")
    wait_for(lambda: read_claim(str(store / FOLDER))[0])
    refused = tools.run(grid, tmp_path / "two", *options)
    assert refused.code == 2
    assert f"process {first.pid} on " in refused.err
    second = tools.start(grid, tmp_path / "two", *options, "--join")

    def at_work() -> int:
        return len(list(store.glob("trials/*/checkpoints/step-*/manifest.json")))

    wait_for(lambda: at_work() >= 2)
    subprocess.run([sys.executable, "-m", "sweep.stop", str(store)], check=True, timeout=60)
    assert (first.wait(90), second.wait(90)) == (0, 0)
    for name in ("one", "two"):
        said = (tmp_path / f"{name}.log").read_text()
        assert "stopped on request; run the same command again to continue" in said

    first = tools.start(grid, store, "--cpus", "1")
    wait_for(lambda: read_claim(str(store / FOLDER))[0] == 2)
    joined = tools.run(grid, tmp_path / "two", *options, "--join")
    assert (first.wait(240), joined.code) == (0, 0), joined.err
    results = {path.parent.name: json.loads(path.read_text()) for path in results_of(store)}
    assert len(results) == 4
    for folder in (store, tmp_path / "two"):  # each journal has all, once
        found = Counter(event["trial"] for event in tools.events(folder, "result"))
        assert found == dict.fromkeys(results, 1)
        epochs = Counter((e["trial"], e["step"]) for e in tools.events(folder, "epoch"))
        assert set(epochs.values()) == {1}
        assert len(epochs) == 4 * 60
    # No step was made twice after the stop: each result continues from what was saved.
    assert all(len(result["epochs"]) == 60 for result in results.values())


def results_of(store: Path) -> list[Path]:
    return list(store.glob("trials/*/result.json"))
