"""Probes that were run again: into the journal, the records and MLflow, in one version each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sweep.environment import set_defaults
from sweep.journal import Journal
from sweep.journal.records import agreed, read_run
from sweep.journal.tracking import TRIAL, Tracker
from sweep.running.watch import Watch
from trainers.config.schema import make_config
from trainers.probe import main
from trainers.trial import trial_place


def record(seed: int, version: int | None = 1, accuracy: float = 0.5) -> dict[str, Any]:
    config = {"dataset": "d", "teacher": "t", "student": "s", "arm": "clean", "seed": seed}
    versions = {} if version is None else {"probe_versions": {"linear": version, "infonce": 1}}
    return versions | {
        "id": f"trial{seed}",
        "config": config | {"probes": ["linear", "infonce"]},
        "metrics": {"test/linear/paper/accuracy": accuracy, "test/alignment": 0.25},
        "teacher": {"teacher/linear/paper/accuracy": 0.9},
        "arrays": {},
        "undefined": [],
        "curve": [{"step": 4, "epoch": 1, "loss": 1.0, "time_ms": 1}],
        "curves": [],
        "student": {"total": 10},
        "data": {"train": 5, "test": 5, "dim": 3},
        "environment": {"device": "cpu"},
    }


def probed(version: int, **metrics: float) -> dict[str, Any]:
    return {
        "format": "probe-result/1", "probe": "linear", "version": version, "settings": {},
        "student_sha256": "s", "source": "x", "arrays": {}, "undefined": [],
        "metrics": {f"test/linear/{name}/accuracy": value for name, value in metrics.items()},
        "teacher": {"teacher/linear/paper/accuracy": 0.8},
    }  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path):
    """Of two trials, both measured by version 1 of `linear`."""
    journal = Journal(tmp_path)
    for seed in range(2):
        journal.append("start", f"trial{seed}", config=record(seed)["config"], time_ms=1)
        journal.append("result", f"trial{seed}", record=record(seed), time_ms=2)
    yield journal
    journal.close()


def accuracies(folder: Path) -> list[float | None]:
    return [r["metrics"].get("test/linear/paper/accuracy") for r in read_run(folder).records]


def test_a_newer_version_of_all_trials_takes_the_olds_place(journal, tmp_path):
    assert accuracies(tmp_path) == [0.5, 0.5]
    assert read_run(tmp_path).notes == []
    for seed in range(2):
        for _ in range(2):  # said twice, written once
            journal.append("probe", f"trial{seed}", step=4, result=probed(2, paper=0.7))
    assert (tmp_path / "journal.jsonl").read_text().count('"event": "probe"') == 2
    run = read_run(tmp_path)
    assert accuracies(tmp_path) == [0.7, 0.7]
    assert run.notes == []
    assert [r["teacher"]["teacher/linear/paper/accuracy"] for r in run.records] == [0.8, 0.8]
    assert [r["metrics"]["test/alignment"] for r in run.records] == [0.25, 0.25]


def test_where_trials_differ_the_older_are_left_out_and_named(journal, tmp_path):
    journal.append("probe", "trial1", step=4, result=probed(2, paper=0.7))
    run = read_run(tmp_path)
    assert accuracies(tmp_path) == [None, 0.7]
    assert run.records[0]["metrics"] == {"test/alignment": 0.25}
    assert run.records[0]["teacher"] == {}
    (note,) = run.notes
    assert note.startswith("1 trials were measured by an older version of `linear`")
    assert "trainers.probe" in note


def test_more_of_the_same_version_joins(journal, tmp_path):
    journal.append("probe", "trial0", step=4, result=probed(1, other=0.6))
    first, second = read_run(tmp_path).records
    assert first["metrics"]["test/linear/paper/accuracy"] == 0.5
    assert first["metrics"]["test/linear/other/accuracy"] == 0.6
    assert second == record(1)


def test_records_from_before_versions_agree_with_each_other_alone():
    old = [record(0, None), record(1, None)]
    assert agreed(old) == (old, [])
    kept, notes = agreed([record(0, None), record(1, 1)])
    assert kept[0]["metrics"] == {}
    assert kept[1] == record(1, 1)
    assert len(notes) == 2


def test_an_event_that_is_no_result_is_named(journal, tmp_path):
    journal.append("probe", "trial0", step=4, result={"probe": "linear"})
    journal.append("start", "trial9", config={})
    with pytest.raises(ValueError, match=r"journal.jsonl:5: result.version: missing"):
        read_run(tmp_path)


def test_mlflow_has_the_newer_values_and_their_version(journal, tmp_path):
    set_defaults()
    journal.append("probe", "trial1", step=4, result=probed(2, paper=0.7))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        tracker = Tracker(tmp_path, "small", uri)
        tracker.start()
        assert tracker.finish(60)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    runs = {r.data.tags.get(TRIAL): r for r in client.search_runs([experiment.experiment_id])}
    found = {name: runs[name].data for name in ("trial0", "trial1")}
    assert found["trial0"].metrics["test/linear/paper/accuracy"] == 0.5
    assert found["trial1"].metrics["test/linear/paper/accuracy"] == 0.7
    assert found["trial0"].tags["probe.linear.version"] == "1"
    assert found["trial1"].tags["probe.linear.version"] == "2"
    assert found["trial1"].tags["probe.infonce.version"] == "1"


@pytest.mark.ray
def test_a_real_sweep_takes_them_up(swept, tmp_path, monkeypatch, capsys):
    """Probed after the sweep under one more noise; the same command again has it in the report."""
    folder = tmp_path / "run"
    shutil.copytree(swept.folder, folder)
    name = "test/noise/pixel/0.4/accuracy"
    with pytest.raises(SystemExit) as left:
        main([str(folder), "--probe", "robustness", "--test-arm", "noise:0.4"])
    assert left.value.code == 0
    before = read_run(folder).records
    assert not any(name in r["metrics"] for r in before)
    configs = [make_config(r["config"]) for r in before]
    stale = Path(trial_place(str(folder), configs[0])) / "probes" / "linear-v0.json"
    (file,) = stale.parent.iterdir()
    stale.write_text(file.read_text().replace('"probe": "robustness"', '"probe": "linear"'))
    journal = Journal(folder)
    watch = Watch(journal, configs, str(folder))
    assert all(watch.adopt(config) for config in configs * 2)
    journal.close()
    after = read_run(folder)
    assert all(name in r["metrics"] for r in after.records)
    assert after.notes == []
    for one, other in zip(before, after.records, strict=True):
        assert one["metrics"].items() <= other["metrics"].items()
    assert (folder / "journal.jsonl").read_text().count('"event": "probe"') == len(configs)
    assert f"passed over: {stale}" in capsys.readouterr().err
