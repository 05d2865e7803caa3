"""Kills. Afterwards the same command completes, and the numbers are those of a quiet run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweep.run import main

pytestmark = [pytest.mark.ray, pytest.mark.faults]


def wait_for(what: Callable[[], Any], seconds: float, child: Any = None) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        if child is not None and child.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def written(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("trials/*/result.json")}


def once_each(folder: Path, tools: Any, epochs: int) -> None:
    wanted = written(folder)
    assert Counter(e["trial"] for e in tools.events(folder, "result")) == dict.fromkeys(wanted, 1)
    steps = Counter((e["trial"], e["step"]) for e in tools.events(folder, "epoch"))
    assert set(steps.values()) == {1}
    assert len(steps) == len(wanted) * epochs


@pytest.mark.slow
def test_the_driver_dies(
    swept: Any, grid: Path, tools: Any, gone_later: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    driver = tools.start(grid, folder, "--cpus", "1")
    wait_for(lambda: tools.events(folder, "result"), 120, driver)
    ours = descendants(driver.pid)
    assert ours
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    # Ray's two agents on a node try for 60 s to report to a control store that is gone as well.
    agents = [process for process in ours if alive(process) and "Agent" in process.name()]
    gone_later(agents)
    wait_for(lambda: not any(alive(process) for process in ours if process not in agents), 30)
    before = written(folder)
    assert 1 <= len(before) < 4

    again = tools.run(grid, folder, "--json")
    assert again.code == 0, again.err
    after = written(folder)
    assert len(after) == 4
    assert before.items() <= after.items()  # what was finished was not run again
    once_each(folder, tools, epochs=2)
    quiet = tools.run(grid, swept.folder, "--json")
    assert json.loads(again.out) == json.loads(quiet.out)


@pytest.mark.slow
def test_a_worker_and_a_raylet_die_and_ctrl_c_lets_trials_save(
    grid: Path, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log = tmp_path / "run", tmp_path / "run.log"
    options = ["--set", "arm=clean", "--set", "epochs=60", "--cpus", "2"]
    driver = tools.start(grid, folder, *options)

    def named(name: str) -> psutil.Process | None:
        for process in descendants(driver.pid):
            with contextlib.suppress(psutil.Error):
                if name in process.name() + " ".join(process.cmdline()):
                    return process
        return None

    def epochs() -> int:
        return len(tools.events(folder, "epoch"))

    wait_for(epochs, 120, driver)
    wait_for(lambda: named("TrialActor"), 10, driver).kill()

    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main(["--grid", str(grid), "--out", str(folder), *options])
    assert time.monotonic() - start < 2
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process {driver.pid} on " in line

    before = epochs()
    wait_for(lambda: epochs() > before, 60, driver)
    wait_for(lambda: named("raylet/raylet"), 10, driver).kill()
    # A trial that outlives its raylet by a moment may end one more epoch, so the line is awaited
    # first.
    restarts = "starting another Ray and going on"
    wait_for(lambda: restarts in log.read_text(), 120, driver)
    before = epochs()
    wait_for(lambda: epochs() > before, 120, driver)
    assert log.read_text().count(restarts) == 1

    ours, start = descendants(driver.pid), time.monotonic()
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130, log.read_text()
    assert time.monotonic() - start < 30
    wait_for(lambda: not any(map(alive, ours)), 30)
    saved = {path.parents[1].name for path in folder.glob("trials/*/checkpoints/step-*")}
    assert saved - written(folder).keys(), "both trials were over, or saved nothing"

    ran = tools.run(grid, folder, *options)
    assert ran.code == 0, ran.err
    assert len(written(folder)) == 2
    once_each(folder, tools, epochs=60)
    assert not tools.events(folder, "failed")
