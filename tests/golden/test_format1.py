"""A run made before values were kept by probe is read and reported the same, to the last bit.

`format1_run` is two trials of the demo as the code at 4f1d577 left them (arrays trimmed), and
`format1_report.json` what its `sweep.report --json` printed of them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.frame import load
from sweep.environment import set_defaults
from sweep.journal.events import Journal
from sweep.journal.records import read_run
from sweep.journal.tracking import Tracker
from sweep.reporting.page import write_report
from sweep.reporting.summary import as_plain
from sweep.running.watch import Watch
from trainers.canonical import make_config
from trainers.results.folder import finished, read_result

GOLDEN = Path(__file__).parent
RUN = GOLDEN / "format1_run"
FILES = sorted(RUN.glob("trials/*/result.json"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy, which may be written to."""
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def raw() -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in FILES]


def reported() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "format1_report.json").read_text())


def test_the_report_has_the_same_numbers() -> None:
    assert json.loads(json.dumps(as_plain(load(RUN)))) == reported()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_a_result_holds_the_same_names_and_values(file: Path) -> None:
    old, result = json.loads(file.read_text()), read_result(str(file))
    assert (result.metrics, result.teacher) == (old["metrics"], old["teacher"])
    assert result.arrays == old["arrays"]
    assert result.undefined == sorted(old["undefined"])
    assert result.versions() == old["probe_versions"]
    assert [row.model_dump() for row in result.epochs] == old["curve"]
    assert result.environment.entries() == old["environment"]
    assert result.probes["linear"].metrics.keys() >= {"test/linear/paper/accuracy"}
    assert result == next(one for one in read_run(RUN).results if one.id == old["id"])


def test_sweep_run_takes_its_trials_for_finished_and_adds_no_event(run: Path) -> None:
    configs = [make_config(old["config"]) for old in raw()]
    assert [config.identity for config in configs] == [old["id"] for old in raw()]
    before = (run / "journal.jsonl").read_bytes()
    journal = Journal(run)
    watch = Watch(journal, configs, str(run))
    assert all(watch.adopt(config) for config in configs)
    journal.close()
    assert (run / "journal.jsonl").read_bytes() == before
    assert finished(str(run), configs[0]) == read_result(str(FILES[0]))


def test_mlflow_gets_the_same_rows(run: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    set_defaults()
    tracker = Tracker(run, "golden", f"sqlite:///{run / 'mlflow.db'}")
    tracker.start()
    assert tracker.finish(120), tracker.error
    query = """
        select tags.value, metrics.key, metrics.step, metrics.value from metrics
        join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'sweep.trial'
    """
    with contextlib.closing(sqlite3.connect(run / "mlflow.db")) as database:
        rows = database.execute(query).fetchall()
    expected: list[tuple[str, str, int, float]] = []
    for old in raw():
        last = old["curve"][-1]["step"]
        values = old["metrics"] | old["teacher"]
        expected += [(old["id"], name, last, value) for name, value in values.items()]
        for row in old["curve"]:
            expected += [(old["id"], f"train/{n}", row["step"], row[n]) for n in ("loss", "epoch")]
    assert sorted(rows) == sorted(expected)
    uri = f"sqlite:///{run / 'mlflow.db'}#golden"
    study = load(uri)
    assert set(study.trials["source"]) == {old["source"] for old in raw()}
    kept = ("kind", "student", "arm", "seeds", "n", "metrics")
    again, first = (
        [{k: row.get(k) for k in kept} for row in r] for r in (as_plain(study), reported())
    )
    assert again == first
    with pytest.raises(ValueError, match="not a folder, so the report needs a place: --out FILE"):
        write_report([uri], study, [])
