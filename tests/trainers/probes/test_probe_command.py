"""Probes on what is trained: the same values as at the trial's end, and never of two versions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shards.building.build import build
from shards.building.request import Request
from shards.support import storage
from trainers.probe import main, probe
from trainers.probes import PROBES
from trainers.probes.names import metric_of
from trainers.results.reprobed import VALUES, added, merged, read_probed, stale
from trainers.results.subjects import places, subject_at
from trainers.trial import run_trial, trial_place


@pytest.fixture
def run(done, bank, tmp_path):
    """(a run's folder with one finished trial and its shards, the trial's folder, its record)."""
    config, root, result, _ = done
    folder = tmp_path / "run"
    shutil.copytree(Path(root) / "trials", folder / "trials")
    (folder / "banks").mkdir()
    (folder / "banks" / "own").symlink_to(bank)
    return folder, trial_place(str(folder), config), result


def of_probe(record, name, part="metrics"):
    """What a probe gave, by running it apart from the record."""
    return {n: v for n, v in record[part].items() if n in NAMES[name]}


NAMES = {
    "linear": {"test/linear/paper/accuracy"},
    "spectrum": {"test/rank/effective", "test/rank/rankme", "test/cosine_to_teacher"},
}


def command(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def test_the_values_are_those_of_the_trials_end(run, capsys):
    """A whole run, its shards found beside it; twice, the second time nothing is measured."""
    folder, place, record = run
    assert command(folder, "--probe", "linear", "--probe", "spectrum") == 0
    assert capsys.readouterr().out.count("measured") == 2
    found, passed_over = read_probed(place, record)
    assert passed_over == []
    assert [one["probe"] for one in found] == ["linear", "spectrum"]
    for one in found:
        values = of_probe(one, one["probe"])
        assert values == of_probe(record, one["probe"])
        assert set(values) == NAMES[one["probe"]]
        assert one["version"] == PROBES[one["probe"]].version
        assert {n: record["teacher"][n] for n in one["teacher"]} == one["teacher"]
        assert merged(record, [one]) == record
        assert not any(added(record, one)[part] for part in VALUES)
    files = sorted((Path(place) / "probes").iterdir())
    before = [file.read_bytes() for file in files]
    assert command(folder, "--probe", "linear", "--probe", "spectrum") == 0
    assert capsys.readouterr().out.count("there") == 2
    assert [file.read_bytes() for file in files] == before
    assert (Path(place) / "result.json").read_bytes()  # and it was not touched
    assert json.loads((Path(place) / "result.json").read_text()) == record


def test_other_arms_are_added_and_named(run, capsys):
    _, place, record = run
    assert command(place, "--probe", "robustness", "--test-arm", "noise:0.3") == 0
    (one,), _ = read_probed(place, record)
    assert one["settings"]["test_arms"] == ["noise:0.3"]
    assert "test/noise/pixel/0.1/accuracy" not in one["metrics"]
    whole = merged(record, [one])
    assert set(whole["metrics"]) > set(record["metrics"])
    assert "test/noise/pixel/0.3/accuracy" in whole["metrics"]
    assert set(added(record, one)["metrics"]) == set(whole["metrics"]) - set(record["metrics"])
    more = ("--test-arm", "noise:0.4", "--test-views", "1", "--adapt-arm", "noise:0.3")
    assert command(place, "--probe", "robustness", *more) == 0
    assert command(place, "--probe", "robustness") == 0
    assert capsys.readouterr().err.count("replaced") == 0
    (own, *others), passed_over = read_probed(place, record)
    assert passed_over == []
    assert [o["settings"]["test_arms"] for o in others] in (
        [["noise:0.3"], ["noise:0.4"]], [["noise:0.4"], ["noise:0.3"]],
    )  # fmt: skip
    assert own["settings"]["test_arms"] == ["noise:0.1"]
    assert merged(record, [own]) == record
    whole = merged(record, [own, *others])
    for name in ("noise/pixel/0.4/accuracy", "noise/pixel/0.3/refitted/accuracy"):
        assert f"test/{name}" in whole["metrics"]


def test_a_stronger_arm_gives_a_value_where_there_was_none():
    """`half` was not reached by the trial's own arms, and is by another."""
    half, arrays = "test/noise/pixel/half", {"arrays": {}, "teacher": {}}
    record = {"metrics": {"a": 1.0}, "undefined": [half, "test/b"], "probe_versions": {"x": 1}}
    record |= arrays
    one = {"probe": "x", "version": 1, "metrics": {half: 0.3, "a": 2.0}, "undefined": ["test/b"]}
    new = added(record, one | arrays)
    assert new["metrics"] == {half: 0.3}
    assert new["undefined"] == []
    whole = merged(record, [one | arrays])
    assert whole["metrics"] == {"a": 1.0, half: 0.3}
    assert whole["undefined"] == ["test/b"]


def bump(monkeypatch, name, **changes):
    """The next revision of a probe, in the table and in all probes that use it."""
    changed = {}
    for other, entry in PROBES.items():
        new = replace(entry, uses=tuple(changed.get(id(used), used) for used in entry.uses))
        if other == name:
            new = replace(new, revision=entry.revision + 1, **changes)
        changed[id(entry)] = new
    for other, entry in list(PROBES.items()):
        monkeypatch.setitem(PROBES, other, changed[id(entry)])


def test_versions_are_never_mixed(run, monkeypatch, capsys):
    """A newer version takes the place of all the older gave; a stale file is named, not read."""
    _, place, record = run
    probes = record["config"]["probes"]
    assert record["probe_versions"] == {name: PROBES[name].version for name in probes}
    assert command(place, "--probe", "linear") == 0
    old = PROBES["linear"].version

    def newer(bank):
        yield "linear/paper/accuracy", 0.125

    users = {"linear", "robustness", "frequency", "intervals", "truncated"}
    bump(monkeypatch, "linear", run=newer)
    found, (line,) = read_probed(place, record)
    assert found == []
    assert f"version {old} of `linear` is stale, this code has {old + 1}" in line
    assert stale(record)["linear"] == (old, old + 1)
    assert set(stale(record)) == users & set(probes)  # what rests on its arithmetic is stale too
    capsys.readouterr()
    assert command(place, "--probe", "linear") == 0
    (one,), (line,) = read_probed(place, record)
    assert f"linear-v{old}.json" in line
    whole = merged(record, [one])
    assert whole["metrics"]["test/linear/paper/accuracy"] == 0.125
    assert whole["teacher"]["teacher/linear/paper/accuracy"] == 0.125
    assert whole["probe_versions"] == record["probe_versions"] | {"linear": old + 1}
    assert set(stale(whole)) == (users - {"linear"}) & set(probes)
    left = {n for n in record["metrics"] if metric_of(n).probe == "linear"} - {*one["metrics"]}
    assert not left & set(whole["metrics"])  # nothing of the old version stays
    assert whole["metrics"]["test/rank/effective"] == record["metrics"]["test/rank/effective"]
    assert added(record, one) == one


def test_reading_a_stale_trial_says_so(run, bank, done, monkeypatch, capsys):
    folder, _, _ = run
    config, _, _, _ = done
    bump(monkeypatch, "infonce")
    run_trial(config, bank, str(folder))
    assert "`infonce` was measured by version" in capsys.readouterr().err


def test_results_of_something_else_are_passed_over(run):
    _, place, record = run
    assert command(place, "--probe", "linear") == 0
    (file,) = (Path(place) / "probes").iterdir()
    good = json.loads(file.read_text())
    for change, word in (
        ({"student_sha256": "0"}, "other weights"),
        ({"source": "0"}, "other images"),
        ({"probe": "infonce"}, "holds infonce-v"),
        ({"version": 0}, "holds linear-v0.json"),
        ({"format": "probe-result/0"}, "format is 'probe-result/0'"),
    ):
        file.write_text(json.dumps(good | change))
        found, (line,) = read_probed(place, record)
        assert found == []
        assert word in line
    gone = file.with_name("gone-v1.json")
    gone.write_text(json.dumps(good | {"probe": "gone", "version": 1}))
    file.write_text(json.dumps(good))
    assert read_probed(place, record) == ([good], [f"{gone}: there is no probe `gone` now"])
    file.write_text("{")
    with pytest.raises(ValueError, match=r"linear-v\d+.json: not JSON"):
        read_probed(place, record)


def test_older_records_have_no_versions(run):
    _, place, record = run
    assert command(place, "--probe", "linear") == 0
    (one,), _ = read_probed(place, record)
    bare = {name: value for name, value in record.items() if name != "probe_versions"}
    probes = record["config"]["probes"]
    assert stale(bare) == {name: (0, PROBES[name].version) for name in probes}
    whole = merged(bare, [one])
    assert whole["metrics"] == record["metrics"]
    assert whole["probe_versions"] == {"linear": PROBES["linear"].version}


def test_a_student_alone_needs_its_shards(run, bank, tmp_path, capsys):
    _, place, record = run
    alone = tmp_path / "student"
    shutil.copytree(Path(place) / "student", alone)
    assert command(alone, "--probe", "spectrum") == 2
    assert "name its shards with --bank" in capsys.readouterr().err
    assert command(alone, "--probe", "spectrum", "--bank", bank) == 0
    file = alone / "probes" / f"spectrum-v{PROBES['spectrum'].version}.json"
    one = json.loads(file.read_text())
    assert of_probe(one, "spectrum") == of_probe(record, "spectrum")
    assert one["trial"] is None


def test_shards_of_another_trial_are_refused(run, tmp_path, capsys):
    folder, place, _ = run
    other = str(tmp_path / "other")
    small = {"train_samples": 100, "test_samples": 60}
    build(Request(dataset="digits", teachers=("embedded",), arms=("noise:0.1",), **small), other)
    assert command(place, "--probe", "linear", "--bank", other) == 2
    assert "than the trial read" in capsys.readouterr().err
    (folder / "banks" / "own").unlink()
    (folder / "banks" / "other").symlink_to(other)
    assert command(place, "--probe", "linear") == 2
    assert "name them: --bank" in capsys.readouterr().err
    assert command(place, "--probe", "lineal") == 2
    assert "did you mean `linear`" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / "empty", "--probe", "linear") == 2
    assert "expected a trial's folder" in capsys.readouterr().err


def test_a_checkpoint_of_an_unfinished_trial(bank, make, tmp_path, monkeypatch):
    """Measured apart from the trial; that of the last step gives what the trial gives."""
    (tmp_path / "banks").mkdir()
    (tmp_path / "banks" / "own").symlink_to(bank)
    config = make(epochs=2, probes=("spectrum",), ema=0.5)
    monkeypatch.setattr("trainers.trial.tidy", lambda root, config: None)
    result = run_trial(config, bank, str(tmp_path), save_seconds=0.0)
    place = Path(trial_place(str(tmp_path), config))
    steps = sorted((place / "checkpoints").iterdir())
    assert int(steps[-1].name[5:]) == result["curve"][-1]["step"]
    (place / "result.json").unlink()
    ranks = []
    for step in steps:
        assert command(step, "--probe", "spectrum") == 0
        file = place / "probes" / step.name / f"spectrum-v{PROBES['spectrum'].version}.json"
        ranks.append(json.loads(file.read_text())["metrics"]["test/rank/effective"])
    assert ranks[-1] == result["metrics"]["test/rank/effective"]
    assert len(set(ranks)) == len(ranks) == 2
    (steps[-1] / "arrays.safetensors").write_bytes(b"x")
    assert command(steps[-1], "--probe", "spectrum") == 2


def test_places_of_a_run(run, tmp_path):
    folder, place, _ = run
    assert places(str(folder)) == [place]
    (folder / "trials" / "unfinished").mkdir()
    assert places(str(folder)) == [place]
    Path(storage.join(place, "result.json")).unlink()
    with pytest.raises(ValueError, match="none of 2 trials is finished"):
        places(str(folder))


def test_a_student_without_a_network(bank, make, tmp_path):
    """teacher_pca:K has no student/ and is measured all the same."""
    config = make(student="teacher_pca:4", probes=("spectrum", "linear"))
    result = run_trial(config, bank, str(tmp_path))
    place = trial_place(str(tmp_path), config)
    subject = subject_at(place, bank)
    ((file, new),) = probe(subject, ("spectrum",))
    assert new
    assert of_probe(json.loads(Path(file).read_text()), "spectrum") == of_probe(result, "spectrum")
    assert read_probed(place, result)[1] == []
