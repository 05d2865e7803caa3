"""The grid's `early_stopping`: what is read, and what is refused in one line."""

from __future__ import annotations

import pytest

from sweep.planning.early_stopping import check_early_stopping
from sweep.planning.expand import expand
from sweep.planning.grid import Grid, read_grid

FIXED = {
    "dataset": "digits", "teacher": "embedded", "student": "width:1", "epochs": 4,
    "curve_every": "1 epochs", "validation_samples": 100,
}  # fmt: skip
RULE = "{by: asha, metric: ridge/accuracy, mode: max}"


def grid(rule: str = RULE, **changes: object) -> Grid:
    lines = [f"  {name}: {value}" for name, value in (FIXED | changes).items()]
    return read_grid("\n".join(["fixed:", *lines, f"early_stopping: {rule}"]), "x.yaml", "x")


def check(one: Grid) -> None:
    assert one.early_stopping is not None
    check_early_stopping(one.early_stopping, expand(one))


def test_a_rule_is_no_part_of_the_trials() -> None:
    found = grid()
    assert found.early_stopping is not None
    assert found.early_stopping.measure == "validation/ridge/accuracy"
    assert found.early_stopping.reduction == 4
    without = read_grid("fixed: {dataset: digits, teacher: embedded, student: width:1}", "y", "y")
    assert without.early_stopping is None
    assert [c.identity for c in expand(found)] == [c.identity for c in expand(grid("null"))]
    check(found)
    check(grid(curve_every="2 epochs"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("5", "x.yaml: early_stopping: expected `name: value` lines, found `5`"),
        ("{by: ashaa, metric: a, mode: max}", "x.yaml: early_stopping: by: "),
        ("{by: asha, mode: max}", "x.yaml: early_stopping: metric: missing"),
        ("{by: asha, metric: a, mode: high}", "x.yaml: early_stopping: mode: "),
        ("{by: asha, metric: a, mode: max, grace: 2}", "early_stopping: unknown key `grace`; "),
        ("{by: asha, metric: a, mode: max, reduction: 1.0}", "reduction: Input should be greater"),
    ],
)
def test_a_wrong_rule_is_refused(rule: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        grid(rule)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "rule", "said"),
    [
        ({"validation_samples": 0}, RULE, "early_stopping: decided by test images"),
        ({"curve_every": "null"}, RULE, "early_stopping: nothing is observed"),
        ({"curve_every": "3 steps"}, RULE, "`3 steps` must be whole epochs"),
        ({"curve_every": "0.5 epochs"}, RULE, "must be whole epochs"),
        ({}, RULE.replace("ridge/", "ridg/"), "metric: `ridg/accuracy` is not observed"),
        (
            {"objective": "rkd"},
            RULE.replace("ridge/accuracy", "cosine_to_teacher"),
            "metric: `cosine_to_teacher` has no meaning for objective `rkd`",
        ),
    ],
)
def test_what_cannot_be_decided_is_refused(changes: dict, rule: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        check(grid(rule, **changes))
    assert said in str(caught.value)


def test_untrained_students_need_no_validation_split() -> None:
    with pytest.raises(ValueError, match="set validation_samples"):
        check(grid(epochs=1, validation_samples=0))
    check(grid(epochs=0, validation_samples=0))
