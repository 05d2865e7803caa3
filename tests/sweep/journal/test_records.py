"""A journal read back as results: the last one wins, and every probe in one version."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.frame import load
from sweep.environment import set_defaults
from sweep.journal.events import FailedEvent, Journal, ProbeEvent, ResultEvent, StartEvent
from sweep.journal.records import newest_only, read_run
from sweep.journal.stored import result_events
from sweep.journal.tracking import TRIAL, Tracker
from sweep.running.watch import Watch
from tests.sweep.made import ENVIRONMENT, made, result_line, write_journal
from trainers.canonical import make_config
from trainers.probe import main
from trainers.results.folder import trial_folder
from trainers.results.record import ProbeResult, TrialResult
from trainers.results.reprobed import Reprobed, parse_reprobed
from trainers.results.trial_journal import TrialJournal, read_rows


def entry(version: int, accuracy: float = 0.5, reference: float = 0.9) -> ProbeResult:
    return ProbeResult(
        version=version,
        metrics={"test/linear/paper/accuracy": accuracy},
        teacher={"teacher/linear/paper/accuracy": reference},
        arrays={},
        undefined=[],
    )


def fields(seed: int) -> dict[str, Any]:
    config = {"dataset": "d", "teacher": "t", "student": "s", "arm": "clean", "seed": seed}
    return {"id": f"trial{seed}", "config": config, "metrics": {"test/alignment": 0.25}}


def result(seed: int, version: int = 1) -> TrialResult:
    one = made(fields(seed))
    return one.replace(one.probes | {"linear": entry(version)})


def again(values: ProbeResult) -> Reprobed:
    return Reprobed(
        probe="linear",
        settings={},
        trial="trial0",
        student_sha256="s",
        source="x",
        environment=made(fields(0)).environment,
        values=values,
    )


@pytest.fixture
def journal(tmp_path: Path):
    """Of two trials, both measured by version 1 of `linear`."""
    journal = Journal(tmp_path)
    for seed in range(2):
        trial, config = f"trial{seed}", fields(seed)["config"]
        journal.append(StartEvent(trial=trial, config=config, time_ms=1))
        journal.append(ResultEvent(trial=trial, record=result(seed), time_ms=2))
    yield journal
    journal.close()


def accuracies(folder: Path) -> list[float | None]:
    return [r.metrics.get("test/linear/paper/accuracy") for r in read_run(folder).results]


# ---- how long trials ran ----

HOUR = 3_600_000


def test_a_resumed_trial_took_its_attempts_and_not_the_time_between(tmp_path: Path) -> None:
    named = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
    config = make_config(named | {"epochs": 4})
    now, folder = [0.0], str(tmp_path / "trial")
    for begin, rows in ((10, [(1, 70)]), (3600, [(2, 75), (3, 3640)]), (90_000, [(4, 90_025)])):
        now[0] = begin
        journal = TrialJournal(folder, config, clock=lambda: now[0])
        journal.start()
        for step, seconds in rows:  # step 2 is of the first attempt, and only in its checkpoint
            journal.epoch({"step": step, "epoch": step, "loss": 1.0, "time_ms": 1000 * seconds})
    now[0] = 90_030
    journal.finished("bank")
    journal.flush()
    one = made(fields(0) | {"config": config.model_dump(mode="json")})
    *_, end = result_events("trial0", one, read_rows(folder))
    assert isinstance(end, ResultEvent)
    assert end.seconds == (75 - 10) + 40 + 30
    driver = Journal(tmp_path)
    for event in result_events("trial0", one, read_rows(folder)):
        driver.append(event)
    driver.close()
    assert list(load(tmp_path).trials["trial_seconds"]) == [end.seconds]


def test_journals_without_seconds_have_those_of_their_attempts(tmp_path: Path) -> None:
    config = fields(0)["config"]
    starts = [
        {"event": "start", "trial": "trial0", "time_ms": time_ms, "config": config}
        for time_ms in (1000, 1000 + 24 * HOUR)
    ]
    end = result_line(fields(0)) | {"time_ms": 61_000 + 24 * HOUR}
    write_journal(tmp_path, [*starts, end, result_line(fields(1))])
    assert read_run(tmp_path).seconds == {"trial0": 60.0}


# ---- results and failures ----


def test_reading_takes_the_last_result_and_open_failures(tmp_path: Path) -> None:
    """A failure counts unless a result of that trial follows; a cut last line does not."""
    first, last, other = (
        fields(seed) | {"metrics": {"test/rank/effective": rank}}
        for seed, rank in ((0, 1.0), (0, 2.0), (1, 15.0))
    )
    failed = [
        FailedEvent(trial=name, config={"seed": 1}, error="lost").model_dump()
        for name in ("trial1", "gone")
    ]
    events = [result_line(first), *failed, result_line(other), result_line(last)]
    run = read_run(write_journal(tmp_path, events, tail='{"event": "result", "tri'))
    assert [one.metrics["test/rank/effective"] for one in run.results] == [15.0, 2.0]
    assert [failure.trial for failure in run.failures] == ["gone"]


@pytest.mark.parametrize("tail", ['{"event": "resu', "12", "null", '{"event": "result"}'])
def test_a_cut_last_line_is_ignored(tmp_path: Path, tail: str) -> None:
    assert len(read_run(write_journal(tmp_path, [result_line(fields(0))], tail)).results) == 1


@pytest.mark.parametrize("path", ["config.seed", "config.arm", "data.test", "student.total"])
def test_a_result_without_a_needed_field_is_named(tmp_path: Path, path: str) -> None:
    line = result_line(fields(0))
    part, name = path.split(".")
    del line["record"][part][name]
    with pytest.raises(ValueError, match=rf"journal\.jsonl:1: .*{part}.*{name}"):
        read_run(write_journal(tmp_path, [line]))


def test_a_missing_folder_or_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no journal\.jsonl in it"):
        read_run(tmp_path)


# ---- probes that were run again ----


def test_a_newer_version_of_all_trials_replaces_the_older(journal: Journal, tmp_path: Path) -> None:
    assert accuracies(tmp_path) == [0.5, 0.5]
    assert read_run(tmp_path).notes == []
    newer = again(entry(2, 0.7, 0.8))
    for seed in range(2):
        for _ in range(2):  # appended twice, written once
            journal.append(ProbeEvent(trial=f"trial{seed}", step=4, result=newer))
    assert (tmp_path / "journal.jsonl").read_text().count('"event":"probe"') == 2
    run = read_run(tmp_path)
    assert accuracies(tmp_path) == [0.7, 0.7]
    assert run.notes == []
    assert [r.teacher["teacher/linear/paper/accuracy"] for r in run.results] == [0.8, 0.8]
    assert [r.metrics["test/alignment"] for r in run.results] == [0.25, 0.25]


def test_where_trials_differ_the_older_are_left_out_and_named(journal: Journal, tmp_path: Path):
    journal.append(ProbeEvent(trial="trial1", step=4, result=again(entry(2, 0.7))))
    run = read_run(tmp_path)
    assert accuracies(tmp_path) == [None, 0.7]
    assert run.results[0].metrics == {"test/alignment": 0.25}
    assert run.results[0].teacher == {}
    (note,) = run.notes
    assert note.startswith("1 trials were measured by an older version of `linear`")
    assert "trainers.probe" in note


def test_more_of_the_same_version_joins(journal: Journal, tmp_path: Path) -> None:
    more = ProbeResult(
        version=1,
        metrics={"test/linear/other/accuracy": 0.6},
        teacher={},
        arrays={},
        undefined=[],
    )
    journal.append(ProbeEvent(trial="trial0", step=4, result=again(more)))
    first, second = read_run(tmp_path).results
    assert first.metrics["test/linear/paper/accuracy"] == 0.5
    assert first.metrics["test/linear/other/accuracy"] == 0.6
    assert second == result(1)


def test_results_from_before_versions_agree_with_each_other_alone() -> None:
    old = [result(0, 0), result(1, 0)]
    assert newest_only(old) == (old, [])
    kept, notes = newest_only([result(0, 0), result(1, 1)])
    assert "linear" not in kept[0].probes
    assert kept[1] == result(1, 1)
    assert len(notes) == 1


def test_an_event_of_format_1_is_read_as_the_same_measurement(tmp_path: Path) -> None:
    old = {
        "format": "probe-result/1", "probe": "linear", "version": 2, "settings": {},
        "trial": "trial0", "student_sha256": "s", "source": "x", "environment": ENVIRONMENT,
        "metrics": {"test/linear/paper/accuracy": 0.7}, "arrays": {}, "undefined": [],
        "teacher": {"teacher/linear/paper/accuracy": 0.9},
    }  # fmt: skip
    assert parse_reprobed(old) == again(entry(2, 0.7))
    event = {"event": "probe", "trial": "trial0", "time_ms": 1, "step": 4, "result": old}
    write_journal(tmp_path, [result_line(fields(0)), event])
    journal = Journal(tmp_path)
    journal.append(ProbeEvent(trial="trial0", step=4, result=again(entry(2, 0.7))))
    journal.close()
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 2
    assert accuracies(tmp_path) == [0.7]


def test_mlflow_has_the_newer_values_and_their_version(journal: Journal, tmp_path: Path) -> None:
    set_defaults()
    journal.append(ProbeEvent(trial="trial1", step=4, result=again(entry(2, 0.7))))
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
    assert found["trial1"].tags["probe.any.version"] == "1"

    study = load(f"{uri}#small")  # read back as a table
    trials = study.trials.set_index("trial")
    journal_trials = load(tmp_path).trials.set_index("trial")
    assert trials.loc["trial1", "test/linear/paper/accuracy"] == 0.7
    assert trials.loc["trial0", "probe_versions"] == "any 1, linear 1"
    same = ["status", "seed", "student", "data.test", "student.parameters", "test/alignment"]
    for name in same:
        assert list(trials[name].sort_index()) == list(journal_trials[name].sort_index()), name
    with pytest.raises(ValueError, match=r"expected one experiment.*found: `small`"):
        load(f"{uri}#other")


@pytest.mark.ray
def test_a_real_sweep_takes_them_up(swept, tmp_path, monkeypatch, capsys):
    """Probed after the sweep under one more noise; the same command again has it in the report."""
    folder = tmp_path / "run"
    shutil.copytree(swept.folder, folder)
    name = "test/noise/pixel/0.4/accuracy"
    with pytest.raises(SystemExit) as left:
        main([str(folder), "--probe", "robustness", "--test-arm", "noise:0.4"])
    assert left.value.code == 0
    before = read_run(folder).results
    assert not any(name in one.metrics for one in before)
    configs = [make_config(one.config) for one in before]
    other = Path(trial_folder(str(folder), configs[0])) / "probes" / "linear-v0.json"
    (file,) = other.parent.iterdir()
    other.write_text(file.read_text().replace('"probe": "robustness"', '"probe": "linear"'))
    journal = Journal(folder)
    watch = Watch(journal, configs, str(folder))
    assert all(watch.adopt(config) for config in configs * 2)
    journal.close()
    after = read_run(folder)
    assert all(name in one.metrics for one in after.results)
    assert after.notes == []
    for one, more in zip(before, after.results, strict=True):
        assert one.metrics.items() <= more.metrics.items()
    assert (folder / "journal.jsonl").read_text().count('"event":"probe"') == len(configs)
    assert f"skipped: {other}" in capsys.readouterr().err
