"""Kills of a small sweep; `make chaos` has more of them, and other faults."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.chaos.invariants import control_of
from tests.faults.chaos.rounds import run_control, run_round
from tests.faults.chaos.run import GRID

pytestmark = [pytest.mark.faults, pytest.mark.ray]

SEED = 13
# Of ranks, trials, drivers and Ray's own processes. A trial that dies waits longer each time before
# it is tried again, but not under another driver: so the kills alternate.
FOUR = ["rank", "driver", "raylet", "trial"]
TWELVE = ["rank", "driver", "rank", "raylet", "rank", "gcs"]
TWELVE += ["trial", "driver", "trial", "raylet", "trial", "driver"]


@pytest.mark.parametrize("kills", [FOUR, pytest.param(TWELVE, marks=pytest.mark.slow)], ids=len)
@pytest.mark.timeout(1800)
def test_kills_change_nothing(kills: list[str], gone_later: Any, tmp_path: Path) -> None:
    """Two trials of one rank and a gang of two; the seed draws the victims and the moments."""
    grid = tmp_path / "grid.yaml"
    text = GRID.read_text().replace("epochs: 200", f"epochs: {10 * len(kills)}")
    grid.write_text(text.replace("seeds: 3", "seeds: 1"))
    (tmp_path / "control").mkdir()
    run_control(grid, tmp_path / "control")
    quiet = tmp_path / "control" / "run"
    ending: list[psutil.Process] = []
    killed = tmp_path / "killed"
    done = run_round(grid, killed, quiet, control_of(quiet), SEED, kills, 400, ending, pause=0.5)
    gone_later(ending)
    assert done.violations == []
    assert Counter(i.fault for i in done.injections) == Counter(kills)
    assert done.codes[-1] == 0
    # That they went on from the newest checkpoint is among the violations; here, that it was asked.
    assert done.redone is not None
    assert done.redone.from_checkpoint >= len(kills) // 4
