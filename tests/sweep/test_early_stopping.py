"""A real sweep that stops a trial early: what is recorded, and what is shown of it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.frame import STOPPED, load
from sweep.journal.run_record import find_sweep
from sweep.journal.status import StatusReader

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GRID = """\
name: stopping
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  train_samples: 200
  test_samples: 60
  validation_samples: 50
  curve_every: 1 epochs
  epochs: 4
  batch_size: 50
  probes: [spectrum]
axes:
  lr: [1.0e-3, 1.0e-9, 2.0e-3]
"""
RULE = "early_stopping: {by: asha, metric: cosine_to_teacher, mode: max}\n"
ONE = ("--cpus", "1", "--max-concurrent", "1")  # so that they come in the order of the axis


def mlflow_states(folder: Path) -> dict[str, str]:
    """{lr: status} of the runs of trials."""
    query = (
        "select p.value, r.status from runs r join params p on p.run_uuid = r.run_uuid "
        "where p.key = 'lr'"
    )
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return dict(database.execute(query).fetchall())


def test_what_does_badly_is_stopped_and_is_no_result_until_it_is_run_on(
    tools: Any, tmp_path: Path
) -> None:
    grid, folder = tmp_path / "grid.yaml", tmp_path / "run"
    grid.write_text(GRID + RULE)
    first = tools.run(grid, folder, *ONE)
    assert first.code == 0, first.err
    trials = load(folder).trials.set_index("lr")
    assert trials["status"].to_dict() == {0.001: "finished", 1e-9: STOPPED, 0.002: "finished"}
    bad = trials.loc[1e-9]
    reason = "stopped early at epoch 1 of 4 by asha: validation/cosine_to_teacher "
    assert bad["error"].startswith(reason)
    (event,) = tools.events(folder, "stopped")
    assert (event["trial"], event["error"]) == (bad["trial"], bad["error"])
    assert f"stopped: trial {bad['trial']}: {reason}" in first.err
    assert [e["step"] for e in tools.events(folder, "epoch") if e["trial"] == bad["trial"]] == [3]
    assert len(tools.events(folder, "result")) == 2  # nothing was measured of the third
    overview = StatusReader(*find_sweep(str(folder))).read()
    assert (overview.finished, overview.stopped_early, overview.failed) == (2, 1, 0)
    assert overview.stops[0].error == bad["error"]
    page = (folder / "report.html").read_text()
    assert reason in page
    assert mlflow_states(folder) == {"0.001": "FINISHED", "1e-09": "KILLED", "0.002": "FINISHED"}

    grid.write_text(GRID)  # without the rule it goes on
    second = tools.run(grid, folder, *ONE)
    assert second.code == 0, second.err
    assert set(load(folder).trials["status"]) == {"finished"}
    assert set(mlflow_states(folder).values()) == {"FINISHED"}
