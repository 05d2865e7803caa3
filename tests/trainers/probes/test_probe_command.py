"""Probes on what is trained: the same values as at the trial's end, and never of two versions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.building.request import Request
from shards.support import storage
from trainers.probe import main, probe
from trainers.probes import PROBES
from trainers.results.folder import trial_folder
from trainers.results.lacking import lacking
from trainers.results.record import ProbeResult, additions, merge
from trainers.results.reprobed import outdated, parse_reprobed, read_reprobed
from trainers.results.subjects import locations, subject_at
from trainers.runner import run_trial


@pytest.fixture
def run(done, bank, tmp_path):
    """(a run's folder with one finished trial and its shards, the trial's folder, its record)."""
    config, root, result, _ = done
    folder = tmp_path / "run"
    shutil.copytree(Path(root) / "trials", folder / "trials")
    (folder / "banks").mkdir()
    (folder / "banks" / "own").symlink_to(bank)
    return folder, trial_folder(str(folder), config), result


def command(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def all_merged(result, reprobed):
    for one in reprobed:
        result = merge(result, one.probe, one.values)
    return result


def test_the_values_are_those_of_the_trials_end(run, capsys):
    """A whole run, its shards found beside it; twice, the second time nothing is measured."""
    folder, place, result = run
    before = (Path(place) / "result.json").read_bytes()
    assert command(folder, "--probe", "linear", "--probe", "spectrum") == 0
    assert capsys.readouterr().out.count("measured") == 2
    found, skipped = read_reprobed(place, result)
    assert skipped == []
    assert [one.probe for one in found] == ["linear", "spectrum"]
    for one in found:
        assert one.values == result.probes[one.probe]
        assert one.values.version == PROBES[one.probe].version
        assert merge(result, one.probe, one.values) == result
        assert additions(result, one.probe, one.values).is_empty()
    files = sorted((Path(place) / "probes").iterdir())
    written = [file.read_bytes() for file in files]
    assert command(folder, "--probe", "linear", "--probe", "spectrum") == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert [file.read_bytes() for file in files] == written
    assert (Path(place) / "result.json").read_bytes() == before


def test_other_arms_are_added_and_named(run, capsys):
    _, place, result = run
    assert command(place, "--probe", "robustness", "--test-arm", "noise:0.3") == 0
    (one,), _ = read_reprobed(place, result)
    assert one.settings["test_arms"] == ["noise:0.3"]
    assert "test/noise/pixel/0.1/accuracy" not in one.values.metrics
    whole = all_merged(result, [one])
    assert set(whole.metrics) > set(result.metrics)
    assert "test/noise/pixel/0.3/accuracy" in whole.metrics
    new = additions(result, one.probe, one.values)
    assert set(new.metrics) == set(whole.metrics) - set(result.metrics)
    more = ("--test-arm", "noise:0.4", "--test-views", "1", "--adapt-arm", "noise:0.3")
    assert command(place, "--probe", "robustness", *more) == 0
    assert command(place, "--probe", "robustness") == 0
    assert capsys.readouterr().err.count("replaced") == 0
    (own, *others), skipped = read_reprobed(place, result)
    assert skipped == []
    assert [o.settings["test_arms"] for o in others] in (
        [["noise:0.3"], ["noise:0.4"]], [["noise:0.4"], ["noise:0.3"]],
    )  # fmt: skip
    assert own.settings["test_arms"] == ["noise:0.1"]
    assert all_merged(result, [own]) == result
    whole = all_merged(result, [own, *others])
    for name in ("noise/pixel/0.4/accuracy", "noise/pixel/0.3/refitted/accuracy"):
        assert f"test/{name}" in whole.metrics


def test_probes_that_adapt_to_nothing_have_the_trials_own_settings(bank, make, tmp_path, capsys):
    config = make(probes=("robustness",), adapt_arms=("noise:0.3",))
    result = run_trial(config, bank, str(tmp_path))
    place = trial_folder(str(tmp_path), config)
    assert command(place, "--bank", bank, "--probe", "spectrum") == 0
    more = ("--probe", "neighbours", "--adapt-arm", "noise:0.2")  # which nothing reads
    assert command(place, "--bank", bank, *more) == 0
    both = ("--probe", "spectrum", "--probe", "robustness")
    assert command(place, "--bank", bank, *both) == 0
    version = PROBES["spectrum"].version
    said = capsys.readouterr().out
    assert said.count(f"spectrum-v{version}.json") == 2
    assert said.count("up to date") == 1
    found, skipped = read_reprobed(place, result)
    assert skipped == []
    assert [one.probe for one in found] == ["neighbours", "robustness", "spectrum"]
    assert all(one.settings["adapt_arms"] == ["noise:0.3"] for one in found)


def test_a_stronger_arm_gives_a_value_where_there_was_none(run):
    """`half` was not reached by the trial's own arms, and is by another."""
    half = "test/noise/pixel/half"

    def entry(metrics, undefined):
        return ProbeResult(version=1, metrics=metrics, teacher={}, arrays={}, undefined=undefined)

    result = run[2].replace({"x": entry({"a": 1.0}, [half, "test/b"])})
    again = entry({half: 0.3, "a": 2.0}, ["test/b"])
    assert additions(result, "x", again) == entry({half: 0.3}, [])
    assert merge(result, "x", again).probes == {"x": entry({"a": 1.0, half: 0.3}, ["test/b"])}


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
    """A newer version replaces all that the older gave; an outdated file is named, not read."""
    _, place, result = run
    probes = result.config["probes"]
    assert result.versions() == {name: PROBES[name].version for name in probes}
    assert command(place, "--probe", "linear") == 0
    old = PROBES["linear"].version

    def newer(bank):
        yield "linear/paper/accuracy", 0.125

    users = {"linear", "robustness", "frequency", "intervals", "truncated"}
    bump(monkeypatch, "linear", run=newer)
    found, (line,) = read_reprobed(place, result)
    assert found == []
    assert f"version {old} of `linear` is outdated, this code has {old + 1}" in line
    assert outdated(result)["linear"] == (old, old + 1)
    assert set(outdated(result)) == users & set(probes)  # what rests on its arithmetic too
    capsys.readouterr()
    assert command(place, "--probe", "linear") == 0
    (one,), (line,) = read_reprobed(place, result)
    assert f"linear-v{old}.json" in line
    whole = all_merged(result, [one])
    assert whole.probes["linear"] == one.values  # nothing of the old version stays
    assert one.values.metrics == {"test/linear/paper/accuracy": 0.125}
    assert one.values.teacher == {"teacher/linear/paper/accuracy": 0.125}
    assert whole.metrics["test/linear/paper/accuracy"] == 0.125
    assert whole.probes["spectrum"] == result.probes["spectrum"]
    assert set(outdated(whole)) == (users - {"linear"}) & set(probes)
    assert additions(result, "linear", one.values) == one.values


def test_reading_an_outdated_trial_says_so(run, bank, done, monkeypatch, capsys):
    folder, _, _ = run
    config, _, _, _ = done
    bump(monkeypatch, "infonce")
    run_trial(config, bank, str(folder))
    assert "`infonce` was measured by version" in capsys.readouterr().err


def test_results_of_something_else_are_skipped_and_named(run):
    _, place, result = run
    assert command(place, "--probe", "linear") == 0
    (file,) = (Path(place) / "probes").iterdir()
    good = json.loads(file.read_text())
    for change, word in (
        ({"student_sha256": "0"}, "other weights"),
        ({"source": "0"}, "other images"),
        ({"probe": "infonce"}, "content is that of infonce-v"),
        ({"values": good["values"] | {"version": 0}}, "content is that of linear-v0.json"),
        ({"format": "probe-result/0"}, "probe-result/0"),
    ):
        file.write_text(json.dumps(good | change))
        found, (line,) = read_reprobed(place, result)
        assert found == []
        assert word in line
    gone = file.with_name("gone-v1.json")
    values = good["values"] | {"version": 1}
    gone.write_text(json.dumps(good | {"probe": "gone", "values": values}))
    file.write_text(json.dumps(good))
    assert read_reprobed(place, result) == (
        [parse_reprobed(good)],
        [f"{gone}: this code has no probe `gone`"],
    )
    file.write_text("{")
    with pytest.raises(ValueError, match=r"linear-v\d+.json: not JSON"):
        read_reprobed(place, result)


def test_a_student_alone_needs_its_shards(run, bank, tmp_path, capsys):
    _, place, result = run
    alone = tmp_path / "student"
    shutil.copytree(Path(place) / "student", alone)
    assert command(alone, "--probe", "spectrum") == 2
    assert "--bank" in capsys.readouterr().err
    assert command(alone, "--probe", "spectrum", "--bank", bank) == 0
    file = alone / "probes" / f"spectrum-v{PROBES['spectrum'].version}.json"
    one = parse_reprobed(json.loads(file.read_text()))
    assert one.values == result.probes["spectrum"]
    assert one.trial is None


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
    assert "give --bank" in capsys.readouterr().err
    assert command(place, "--probe", "lineal") == 2
    assert "did you mean `linear`" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / "empty", "--probe", "linear") == 2
    assert "expected a trial's folder" in capsys.readouterr().err


def test_values_that_a_poorer_bank_could_not_give_are_named_and_measured(
    bank, make, tmp_path, capsys
):
    """Of test arms that the bank lacks there is no teacher, and no teacher_pca."""
    waves = ("fourier:0.5:0:0.5", "fourier:0:0.5:0.5")
    config = make(
        student="teacher_pca:8", test_arms=("noise:0.1", *waves), probes=("robustness", "frequency")
    )
    whole = Request(
        dataset="digits", teachers=("embedded",), arms=("noise:0.1",), views=2,
        test_arms=config.test_arms, test_views=2, train_samples=200, test_samples=60,
    )  # fmt: skip
    poorer, fuller, root = (str(tmp_path / name) for name in ("poorer", "fuller", "run"))
    build(whole.model_copy(update={"test_arms": waves[:1]}), poorer)
    build(whole, fuller)
    result = run_trial(config, poorer, root)
    assert "teacher/noise/pixel/0.1/accuracy" not in result.teacher
    place, both = trial_folder(root, config), [f"--probe={name}" for name in config.probes]
    assert command(place, *both, "--bank", poorer) == 0
    capsys.readouterr()
    assert run_trial(config, poorer, root) == result
    assert capsys.readouterr().err == ""
    assert run_trial(config, fuller, root) == result
    said = capsys.readouterr().err.splitlines()
    for line, name, arms in zip(said, config.probes, ("noise:0.1", ", ".join(waves)), strict=True):
        assert f"without the teacher under {arms}, which {fuller} holds" in line
        assert f"--probe {name} --bank {fuller} measures it" in line
    assert command(place, *both, "--bank", fuller) == 0
    said = capsys.readouterr()
    assert said.out.count("measured") == 2
    assert said.err.count("replaced, because it lacks the teacher under") == 2
    anew = run_trial(config, fuller, str(tmp_path / "anew"))
    assert {one.probe: one.values for one in read_reprobed(place, result)[0]} == anew.probes
    capsys.readouterr()
    for other in (poorer, fuller):  # values that are there are kept, also beside a poorer bank
        assert command(place, *both, "--bank", other) == 0
        assert capsys.readouterr().out.count("up to date") == 2


def test_a_missing_teacher_is_missed_where_the_bank_holds_it(done, bank):
    config, _, result, _ = done
    manifest, entry = load_manifest(bank), result.probes["robustness"]
    assert lacking(result.probes, config, manifest) == {}
    alone = {"robustness": entry.model_copy(update={"teacher": {}})}
    assert lacking(alone, config, manifest) == {"robustness": ["noise:0.1"]}
    more = config.model_copy(update={"test_views": 3})  # of which the bank has two
    assert lacking(alone, more, manifest) == {}
    older = {"robustness": alone["robustness"].model_copy(update={"version": 1})}
    assert lacking(older, config, manifest) == {}


def test_a_checkpoint_of_an_unfinished_trial(bank, make, tmp_path, monkeypatch):
    """Measured apart from the trial; that of the last step gives what the trial gives."""
    (tmp_path / "banks").mkdir()
    (tmp_path / "banks" / "own").symlink_to(bank)
    config = make(epochs=2, probes=("spectrum",), ema=0.5)
    monkeypatch.setattr("trainers.runner.tidy", lambda root, config: None)
    result = run_trial(config, bank, str(tmp_path), save_seconds=0.0)
    place = Path(trial_folder(str(tmp_path), config))
    steps = sorted((place / "checkpoints").iterdir())
    assert int(steps[-1].name[5:]) == result.last_step
    (place / "result.json").unlink()
    ranks = []
    for step in steps:
        assert command(step, "--probe", "spectrum") == 0
        file = place / "probes" / step.name / f"spectrum-v{PROBES['spectrum'].version}.json"
        ranks.append(
            parse_reprobed(json.loads(file.read_text())).values.metrics["test/rank/effective"]
        )
    assert ranks[-1] == result.metrics["test/rank/effective"]
    assert len(set(ranks)) == len(ranks) == 2
    (steps[-1] / "arrays.safetensors").write_bytes(b"x")
    assert command(steps[-1], "--probe", "spectrum") == 2


def test_the_finished_trials_of_a_run_are_found(run, tmp_path):
    folder, place, _ = run
    assert locations(str(folder)) == [place]
    (folder / "trials" / "unfinished").mkdir()
    assert locations(str(folder)) == [place]
    Path(storage.join(place, "result.json")).unlink()
    with pytest.raises(ValueError, match="finished"):
        locations(str(folder))


def test_a_student_without_a_network(bank, make, tmp_path):
    """teacher_pca:K has no student/ and is measured all the same."""
    config = make(student="teacher_pca:4", probes=("spectrum", "linear"))
    result = run_trial(config, bank, str(tmp_path))
    place = trial_folder(str(tmp_path), config)
    subject = subject_at(place, bank)
    ((file, new),) = probe(subject, ("spectrum",))
    assert new
    again = parse_reprobed(json.loads(Path(file).read_text()))
    assert again.values == result.probes["spectrum"]
    assert read_reprobed(place, result)[1] == []
