"""The grid's `search`: which trials it draws, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from sweep.planning.expand import expand
from sweep.planning.grid import Grid, read_grid
from sweep.planning.search import Search, read_search
from sweep.planning.settings import override

HEAD = """\
fixed: {dataset: digits, teacher: embedded, validation_samples: 100, curve_every: 1 epochs}
axes: {student: [width:1, width:2]}
seeds: 2
"""
RANGES = "{lr: {log: [1.0e-4, 1.0e-2]}, batch_size: {choice: [32, 64]}}"
REST = "by: random, metric: ridge/accuracy, mode: max"


def grid(search: str) -> Grid:
    return read_grid(f"{HEAD}search: {{{search}}}\n", "x.yaml", "x")


def draws(kind: str, values: list, count: int = 400) -> np.ndarray:
    fields = {"by": "random", "trials": count, "metric": "ridge/accuracy", "mode": "max"}
    search = read_search(fields | {"ranges": {"lr": {kind: values}}}, "x")
    assert search is not None
    return np.array([search.draw(i)["lr"] for i in range(count)])


def test_every_draw_is_a_trial_of_every_combination_and_seed() -> None:
    found = expand(grid(f"{REST}, trials: 5, ranges: {RANGES}"))
    assert len(found) == 5 * 2 * 2
    by_student = {
        student: {(c.lr, c.batch_size) for c in found if c.student == student}
        for student in ("width:1", "width:2")
    }
    assert by_student["width:1"] == by_student["width:2"]  # so draws can be compared
    assert len(by_student["width:1"]) == 5
    assert {c.seed for c in found} == {0, 1}


def test_a_longer_search_begins_with_the_same_draws() -> None:
    few = {c.identity for c in expand(grid(f"{REST}, trials: 3, ranges: {RANGES}"))}
    more = {c.identity for c in expand(grid(f"{REST}, trials: 6, ranges: {RANGES}"))}
    other = {c.identity for c in expand(grid(f"{REST}, trials: 3, seed: 1, ranges: {RANGES}"))}
    assert few < more
    assert not few & other


def test_draws_are_spread_as_their_range_says() -> None:
    log = np.log10(draws("log", [1e-4, 1e-2]))
    assert -4 <= log.min() < -3.95
    assert -2.05 < log.max() <= -2
    assert log.mean() == pytest.approx(-3, abs=0.1)
    uniform = draws("uniform", [0, 10])
    assert 0 <= uniform.min() < 0.2
    assert uniform.mean() == pytest.approx(5, abs=0.5)
    whole = draws("integer", [3, 5])
    assert whole.dtype.kind == "i"
    assert {*whole.tolist()} == {3, 4, 5}
    assert np.bincount(whole)[3:].min() > 100
    assert {*draws("choice", [0.1, 0.5]).tolist()} == {0.1, 0.5}


def test_a_setting_takes_the_place_of_a_range() -> None:
    whole = grid(f"{REST}, trials: 4, ranges: {RANGES}")
    fixed = expand(override(whole, ["lr=0.5"], 1))
    assert {c.lr for c in fixed} == {0.5}
    assert {c.batch_size for c in fixed} == {32, 64}
    assert override(whole, ["lr=0.5", "batch_size=32"], 1).search is None


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (f"{REST}, trials: 0, ranges: {RANGES}", "trials: Input should be greater than or equal"),
        (f"{REST}, trials: 2, ranges: {{}}", "ranges: "),
        (f"{REST}, trials: 2, ranges: {{lrr: {{log: [1, 2]}}}}", "unknown field `lrr`; did you"),
        (f"{REST}, trials: 2, ranges: {{lr: {{log: [0, 2]}}}}", "log: expected numbers above 0"),
        (f"{REST}, trials: 2, ranges: {{lr: {{log: [2, 1]}}}}", "[low, high]; found `[2, 1]`"),
        (f"{REST}, trials: 2, ranges: {{lr: {{normal: [2, 1]}}}}", "one of log, uniform, integer"),
        (f"{REST}, trials: 2, ranges: {{epochs: {{integer: [1.5, 2]}}}}", "two whole numbers"),
        (f"{REST}, trials: 2, ranges: {{lr: {{choice: []}}}}", "at least one value"),
        (
            f"{REST}, trials: 2, ranges: {{optimizer: {{choice: [adam, sgdd]}}}}",
            "r `sgdd`; did you",
        ),
        (f"{REST}, trials: 2, ranges: {{batch_size: {{choice: [32, 1]}}}}", "than or equal to 2"),
        (f"{REST}, trials: 2, ranges: {{ema: {{uniform: [0.0, 1.2]}}}}", "ema: Input should be le"),
        (f"{REST}, trials: 2, ranges: {{ema: {{uniform: [-0.1, 0.5]}}}}", "greater than or equal"),
        (f"{REST}, trials: 2, ranges: {{epochs: {{integer: [-1, 2]}}}}", "epochs: Input should be"),
        (f"{REST}, trials: 2, ranges: {{epochs: {{log: [1, 9]}}}}", "valid integer; got 1.0"),
        (f"{REST}, trials: 2, ranges: {{precision: {{choice: [fp32, auto]}}}}", "got 'auto'"),
        (f"{REST}, trials: 2, ranges: {{arm: {{choice: [clean]}}}}", "make it an axis"),
        (f"{REST}, trials: 2, ranges: {{seed: {{integer: [1, 2]}}}}", "make it an axis"),
    ],
)
def test_a_wrong_search_is_refused_in_one_line(search: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        grid(search)
    assert said in str(caught.value)
    assert str(caught.value).startswith("x.yaml: search")
    assert "\n" not in str(caught.value)


def test_values_that_the_tables_refuse_are_refused_before_they_are_drawn() -> None:
    for field, described, said in (
        ("target", "choice: [teacher, pca:x]", "target: `pca:x`"),
        ("temperature", "uniform: [0.0, 1.0]", "temperature: Input should be greater than 0"),
    ):
        # Nothing of the range is drawn: the values are those of another draw.
        drawn = replace(
            grid(f"{REST}, trials: 1, ranges: {{{field}: {{{described}}}}}"), draws=({},)
        )
        with pytest.raises(ValueError, match=rf"^x\.yaml: search\.ranges: {re.escape(said)}"):
            expand(drawn)


def test_a_field_that_has_a_value_is_not_drawn_as_well() -> None:
    twice = grid(f"{REST}, trials: 2, ranges: {{student: {{choice: [width:1, width:4]}}}}")
    with pytest.raises(ValueError, match=r"`student` is given, and in search\.ranges; keep one"):
        expand(twice)


def test_draws_are_the_same_on_every_machine() -> None:
    search = Search.model_validate(
        {"by": "random", "trials": 3, "metric": "a", "mode": "max"}
        | {"ranges": {"lr": {"log": [1e-4, 1e-2]}, "epochs": {"integer": [3, 9]}}}
    )
    assert [search.draw(i) for i in range(2)] == [
        {"lr": 0.00957, "epochs": 6},
        {"lr": 0.0001967, "epochs": 3},
    ]
