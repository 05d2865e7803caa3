"""Tables as files: every number survives, and LaTeX has means and deviations by configuration."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sweep.analysis.frame import load
from sweep.report import main
from tests.sweep.made import result_line, write_journal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = []
    for i, (student, rank) in enumerate([("width:1", 10.0), ("width:1", 12.0), ("width_2&", 20.0)]):
        config = {
            "dataset": "d", "teacher": "t", "student": student, "arm": "clean", "seed": i,
            "epochs": 3, "test_arms": ["noise:0.1", "noise:0.2"],
        }  # fmt: skip
        line = {
            "id": f"trial{i}", "config": config, "teacher": {"teacher/rank/effective": 88.5},
            "metrics": {"test/rank/effective": rank, "test/noise/paper/0.1/accuracy": 1 / 3},
        }  # fmt: skip
        lines.append(result_line(line))
    failed = {"event": "failed", "trial": "lost", "time_ms": 1, "config": config, "error": "a, b"}
    return write_journal(tmp_path / "run", [*lines, failed])


def export(run: Path, kind: str) -> Path:
    target = run.parent / f"table.{kind}"
    with pytest.raises(SystemExit) as left:
        main([str(run), f"--{kind}", str(target)])
    assert left.value.code == 0
    assert not (run / "report.html").exists()
    return target


def test_csv_and_parquet_hold_every_number_of_every_trial(run: Path) -> None:
    trials = load(run).trials
    for read in (pd.read_csv(export(run, "csv")), pd.read_parquet(export(run, "parquet"))):
        assert list(read.columns) == list(trials.columns)
        for name in ("test/rank/effective", "test/noise/paper/0.1/accuracy", "seed", "data.test"):
            assert read[name].astype(float).equals(trials[name].astype(float)), name
        assert sorted(read["status"]) == ["failed"] + ["finished"] * 3
        assert list(read["error"].dropna()) == ["a, b"]
    text = (run.parent / "table.csv").read_text()
    assert "noise:0.1 noise:0.2" in text
    assert ",3.0," not in text  # whole numbers stay whole beside missing ones
    lists = pd.read_parquet(run.parent / "table.parquet")["test_arms"]
    assert list(lists.iloc[-1]) == ["noise:0.1", "noise:0.2"]


def test_latex_has_a_row_a_configuration_with_its_spread(run: Path) -> None:
    text = export(run, "latex").read_text()
    rows = [[cell.strip(" \\") for cell in line.split(" & ")] for line in text.splitlines()]
    assert ["teacher", "", "", "", "$88.5$", "--"] in rows
    assert ["width:1", "clean", "3", "2", r"$11.0 \pm 1.4$", r"$33.3 \pm 0.0$"] in rows
    assert [r"width\_2\&", "clean", "3", "1", "$20.0$", "$33.3$"] in rows
    assert r"\toprule" in text
