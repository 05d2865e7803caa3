"""Results of format 1 become results of the present format, every value in its probe's entry."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sweep.made import COST, DATA, ENVIRONMENT, PREPROCESS
from trainers.results.format1 import UNDECLARED
from trainers.results.record import Observation, parse_result

OLD: dict[str, Any] = {
    "format": "trial-result/1",
    "id": "0123456789abcdef",
    "config": {
        "dataset": "d", "teacher": "t", "student": "s", "arm": "clean", "seed": 0,
        "probes": ["linear", "spectrum", "zero_shot"],
    },
    "source": "s",
    "weights_sha256": "w",
    "data": DATA,
    "input": {"preprocess": PREPROCESS, "classes": ["one"], "templates": ["a {}"]},
    "student": COST,
    "environment": ENVIRONMENT,
    "probe_versions": {"linear": 3, "spectrum": 2, "zero_shot": 1},
    "metrics": {"test/linear/paper/accuracy": 0.5, "test/rank/effective": 7.0},
    "teacher": {"teacher/linear/paper/accuracy": 0.9, "teacher/curve/rank/effective": 9.0},
    "arrays": {"test/spectrum": [0.75, 0.25]},
    "undefined": ["teacher/rank/alpha"],
    "curve": [{"step": 4, "epoch": 1, "loss": 0.5, "time_ms": 7}],
    "curves": [{"step": 4, "epoch": 1.0, "rank/effective": 6.0}],
}  # fmt: skip


def test_every_value_is_in_the_entry_of_its_probe() -> None:
    result = parse_result(OLD)
    assert list(result.probes) == ["linear", "spectrum", "zero_shot"]
    linear, spectrum = result.probes["linear"], result.probes["spectrum"]
    assert (linear.version, linear.metrics) == (3, {"test/linear/paper/accuracy": 0.5})
    assert linear.teacher == {"teacher/linear/paper/accuracy": 0.9}
    assert (spectrum.metrics, spectrum.teacher) == ({"test/rank/effective": 7.0}, {})
    assert spectrum.arrays == OLD["arrays"]
    assert spectrum.undefined == ["teacher/rank/alpha"]
    assert result.probes["zero_shot"].is_empty()  # it was run, and gave nothing


def test_rows_of_the_training_and_their_reference_keep_their_names() -> None:
    result = parse_result(OLD)
    assert result.last_step == 4
    row = Observation(step=4, epoch=1.0, values={"rank/effective": 6.0})
    assert result.observations.rows == [row]
    assert result.observations.teacher == {"rank/effective": 9.0}
    assert (result.metrics, result.teacher) == (OLD["metrics"], OLD["teacher"])
    assert parse_result(result.as_json()) == result


def test_results_from_before_versions_have_version_0() -> None:
    bare = {name: value for name, value in OLD.items() if name != "probe_versions"}
    assert parse_result(bare).versions() == {"linear": 0, "spectrum": 0, "zero_shot": 0}


def test_values_that_no_table_declares_are_kept_apart() -> None:
    result = parse_result(OLD | {"metrics": {"test/of_my_own": 1.0}})
    assert result.probes[UNDECLARED].metrics == {"test/of_my_own": 1.0}
    assert result.metrics == {"test/of_my_own": 1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": None}, "input: "),
        ({"curve": [{"step": 1}]}, "epochs.0.epoch: missing"),
        ({"config": {"dataset": "d"}}, "no teacher, student, arm, seed"),
        ({"metrics": [1]}, "not a whole trial-result/1"),
        ({"metrics": {"test/rank/effective": float("nan")}}, "finite"),
        ({"format": "trial-result/3"}, "this code reads trial-result/1 and trial-result/2"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"^a/result\.json: ") as caught:
        parse_result(OLD | change, "a/result.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
