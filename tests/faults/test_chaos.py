"""Twelve kills of a small sweep; `make chaos` has more of them, and other faults."""

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
# Three of a kind: of ranks, trials, drivers and Ray's own processes. A trial that dies waits longer
# each time before it is tried again, but not under another driver: so the kills alternate.
KILLS = ["rank", "driver", "rank", "raylet", "rank", "gcs"]
KILLS += ["trial", "driver", "trial", "raylet", "trial", "driver"]


@pytest.mark.timeout(1800)
def test_twelve_kills_change_nothing(gone_later: Any, tmp_path: Path) -> None:
    """Two trials of one rank and a gang of two; the seed draws the victims and the moments."""
    grid = tmp_path / "grid.yaml"
    text = GRID.read_text().replace("epochs: 200", "epochs: 120")
    grid.write_text(text.replace("seeds: 3", "seeds: 1"))
    (tmp_path / "control").mkdir()
    run_control(grid, tmp_path / "control")
    quiet = tmp_path / "control" / "run"
    ending: list[psutil.Process] = []
    killed = tmp_path / "killed"
    done = run_round(grid, killed, quiet, control_of(quiet), SEED, KILLS, 400, ending, pause=0.5)
    gone_later(ending)
    assert done.violations == []
    assert Counter(i.fault for i in done.injections) == Counter(KILLS)
    assert done.codes[-1] == 0
    # That they went on from the newest checkpoint is among the violations; here, that it was asked.
    assert done.redone is not None
    assert done.redone.from_checkpoint >= 3
