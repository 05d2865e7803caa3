"""Trials as tables: one row each from journal, store and several runs, every number by its name."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import sweep
from sweep.analysis.frame import load
from tests.sweep.made import made, result_line, write_journal
from trainers.config.schema import TrialConfig

PROBED = {"spectrum": 2}


def fields(seed: int, student: str = "width:1", **others: Any) -> dict[str, Any]:
    config = {
        "dataset": "d", "teacher": "t", "student": student, "arm": "clean", "seed": seed,
        "epochs": 2, "train_samples": None, "test_arms": ["noise:0.1"],
    }  # fmt: skip
    rows = [{"step": 3, "epoch": 0.5, "values": {"rank/effective": 4.0}}]
    return {
        "id": f"{student}-{seed}",
        "config": config | others.pop("config", {}),
        "metrics": {"test/rank/effective": 10.0 + seed},
        "teacher": {"teacher/rank/effective": 88.0},
        "arrays": {"test/spectrum": [0.75, 0.25]},
        "student": {"total": 811264},
        "embeddings": {"precision": "bf16", "device": "cuda", "stored": "float16"},
        "epochs": [{"step": 6, "epoch": 1.0, "loss": 0.5, "time_ms": 9}],
        "observations": {"rows": rows, "teacher": {"rank/effective": 80.0}},
        **others,
    }


def lines(*records: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for one in records:
        start = {"event": "start", "trial": one["id"], "time_ms": 1, "config": one["config"]}
        found += [start, result_line(one)]
    return found


def test_every_column_is_documented(tmp_path: Path) -> None:
    study = load(write_journal(tmp_path / "run", lines(fields(0), fields(1))))
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text()
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    named = set(re.findall(r"`([^`]+)`", prose))
    columns = {name for name in study.trials.columns if "/" not in name}
    assert columns - named - TrialConfig.model_fields.keys() == set()
    assert {name for name in study.curves.columns if "/" not in name} <= named


def test_a_journal_gives_a_row_a_trial_with_every_number_under_its_name(tmp_path: Path) -> None:
    failed = fields(2)["config"]
    events = [
        *lines(fields(0), fields(1, "width:2")),
        {"event": "start", "trial": "a", "time_ms": 2, "config": failed},
        {"event": "failed", "trial": "a", "time_ms": 3, "config": failed, "error": "lost"},
        {"event": "failed", "trial": "b", "time_ms": 3, "config": failed,
         "error": "DivergedError: diverged at step 7 (epoch 1): the loss is nan"},
        {"event": "start", "trial": "c", "time_ms": 2, "config": failed},
    ]  # fmt: skip
    study = load(write_journal(tmp_path / "run", events))
    trials = study.trials.set_index("trial")
    assert dict(trials["status"]) == {
        "width:1-0": "finished", "width:2-1": "finished",
        "a": "failed", "b": "diverged", "c": "unfinished",
    }  # fmt: skip
    one = trials.loc["width:1-0"]
    assert one["test/rank/effective"] == 10.0
    assert one["teacher/rank/effective"] == 88.0
    assert one["teacher/curve/rank/effective"] == 80.0
    assert one["student.parameters"] == 811264
    assert one["data.test"] == 359
    assert one[["teacher.precision", "teacher.stored"]].tolist() == ["bf16", "float16"]
    assert one["test_arms"] == ("noise:0.1",)
    assert one["train_samples"] is None
    assert one["probe_versions"] == "any 1"
    assert (one["steps"], one["started_ms"], one["ended_ms"]) == (6, 1, 1)
    assert trials.loc["a", "error"] == "lost"
    assert math.isnan(trials.loc["a", "test/rank/effective"])
    assert study.axes == ["student"]
    curve = study.curves[study.curves["trial"] == "width:1-0"].set_index("step")
    assert curve.loc[3, "rank/effective"] == 4.0
    assert curve.loc[6, "loss"] == 0.5
    assert math.isnan(curve.loc[3, "loss"])
    assert study.arrays("width:1-0") == {"test/spectrum": [0.75, 0.25]}
    with pytest.raises(KeyError):
        study.arrays("a")


def stored(root: Path, *records: dict[str, Any]) -> Path:
    for one in records:
        folder = root / "trials" / one["id"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(made(one).as_json()))
    return root


def test_a_store_gives_the_same_values_as_its_journal(tmp_path: Path) -> None:
    records = [fields(0), fields(1)]
    store = stored(tmp_path / "store", *records)
    (store / "trials" / "begun").mkdir()
    kept = sweep.load(store)
    assert "1 of 3 trials have written nothing yet" in kept.notes[0]
    journal = load(write_journal(tmp_path / "run", lines(*records)))
    names = [n for n in journal.trials.columns if n not in ("run", "started_ms", "ended_ms")]
    assert "test/rank/effective" in names
    assert kept.trials[names].equals(journal.trials[names])
    assert kept.curves.drop(columns="run").equals(journal.curves.drop(columns="run"))
    assert kept.arrays("width:1-0") == {"test/spectrum": [0.75, 0.25]}
    assert kept.config("width:1-1")["seed"] == 1
    with pytest.raises(ValueError, match=r"no journal\.jsonl in it"):
        load(tmp_path)


def test_several_runs_are_one_table_and_a_trial_counts_once(tmp_path: Path) -> None:
    one = write_journal(tmp_path / "one", lines(fields(0), fields(1)))
    two = write_journal(tmp_path / "two", lines(fields(1), fields(2, "width:2")))
    study = load(one, str(two))
    assert list(study.trials["seed"]) == [0, 1, 2]
    assert list(study.trials["run"]) == [str(one), str(one), str(two)]
    assert len(study.curves) == 6
    chosen = load(one, two, where={"student": "width:2"})
    assert list(chosen.trials["trial"]) == ["width:2-2"]
    assert set(chosen.curves["trial"]) == {"width:2-2"}
    assert list(load(one, where={"test_arms": ["noise:0.1"]}).trials["seed"]) == [0, 1]
    with pytest.raises(ValueError, match="no column `studnt`; did you mean `student`"):
        load(one, where={"studnt": "width:2"})
    other = write_journal(tmp_path / "other", lines(fields(0, source="6" * 64)))
    with pytest.raises(ValueError, match=r"trial width:1-0 read other images.*load them apart"):
        load(one, other)


def started(trial: str, error: str = "") -> list[dict[str, Any]]:
    """Events of a trial without a result: begun, and failed with `error` if one is given."""
    event = {"trial": trial, "time_ms": 1, "config": fields(0)["config"]}
    failed = [{"event": "failed", "error": error} | event] if error else []
    return [{"event": "start"} | event, *failed]


@pytest.mark.parametrize("turned", [False, True])
def test_arrays_are_read_from_the_store_of_the_run_in_which_the_trial_finished(
    tmp_path: Path, turned: bool
) -> None:
    """The other run mentions the trial too, but it failed there."""
    lost = write_journal(tmp_path / "lost", [*lines(fields(1)), *started("width:1-0", "lost")])
    result = result_line(fields(0))
    result["record"]["probes"]["any"]["arrays"] = {}  # journals leave them to the store
    done = write_journal(stored(tmp_path / "done", fields(0)), [result])
    study = load(*((done, lost) if turned else (lost, done)))
    assert study.arrays("width:1-0") == {"test/spectrum": [0.75, 0.25]}


ERRORS = {
    "diverged": "DivergedError: diverged at step 7 (epoch 1): the loss is nan",
    "failed": "lost",
    "unfinished": "",
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [("diverged", "unfinished"), ("diverged", "failed"), ("failed", "unfinished")],
)
def test_the_stronger_end_of_a_trial_counts_whatever_the_order_of_runs(
    tmp_path: Path, stronger: str, weaker: str, turned: bool
) -> None:
    names = (weaker, stronger) if turned else (stronger, weaker)
    runs = [write_journal(tmp_path / name, started("a", ERRORS[name])) for name in names]
    (row,) = load(*runs).trials.to_dict("records")
    assert (row["status"], row["run"]) == (stronger, str(tmp_path / stronger))


def test_versions_of_a_probe_never_meet_in_one_column(tmp_path: Path) -> None:
    entry = {"version": 2, "metrics": {"test/rank/effective": 11.0}, "teacher": {}, "arrays": {}}
    newer = fields(1, probes={"any": entry | {"undefined": []}})
    one = write_journal(tmp_path / "one", lines(fields(0)))
    two = write_journal(tmp_path / "two", lines(newer))
    study = load(one, two)
    values = study.trials.set_index("seed")["test/rank/effective"]
    assert math.isnan(values[0])
    assert values[1] == 11.0
    # Another note says that the results, which the journals name, are not there.
    (note,) = [note for note in study.notes if "version" in note]
    assert note.startswith("1 trials were measured by an older version of `any`")
