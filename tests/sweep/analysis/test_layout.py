"""Designs and images: closed forms, SciPy's values, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sweep.analysis.images import image_interval, joint_interval
from sweep.analysis.layout import Source, at_matched, less_teacher, two_way

RNG = np.random.default_rng(17)


def cells(interaction: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"status": "finished", "student": student, "arm": arm, "seed": seed}
            | {"test/m": 1.0 * (student == "b") + interaction * (student == "b") * (arm == "n")
               + 0.1 * RNG.standard_normal()}
            for student in "ab"
            for arm in "cn"
            for seed in range(6)
        ]
    )  # fmt: skip


def sources(trials: pd.DataFrame) -> tuple[Source, ...]:
    return two_way(trials, "test/m", "student", "arm").sources


def test_interaction_in_a_two_way_layout_is_found_only_where_there_is_one() -> None:
    none = {source.name: source for source in sources(cells(0.0))}
    some = {source.name: source for source in sources(cells(1.0))}
    assert none["student"].p < 1e-6
    assert none["student x arm"].p > 0.01 > some["student x arm"].p
    assert 0 <= none["student x arm"].share < some["student x arm"].share < 1


def test_the_interaction_of_a_2_x_2_layout_is_the_square_of_a_t() -> None:
    """F(1, 20) of a balanced layout is t^2 of the contrast 1, -1, -1, 1 with the pooled error."""
    trials = cells(0.2)
    source = sources(trials)[2]
    parts = [part["test/m"].to_numpy() for _, part in trials.groupby(["student", "arm"])]
    contrast = sum(w * part.mean() for w, part in zip((1, -1, -1, 1), parts, strict=True))
    error = np.sqrt(np.mean([part.var(ddof=1) for part in parts]) * 4 / 6)
    assert source.f == pytest.approx((contrast / error) ** 2)
    assert source.p == pytest.approx(2 * stats.t.sf(abs(contrast / error), 20))


def test_a_layout_with_an_empty_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 4 cells"):
        two_way(cells(0.0).iloc[:18], "test/m", "student", "arm")


def test_a_layout_whose_only_spread_is_rounding_is_refused() -> None:
    trials = cells(0.0)
    trials["test/m"] = [0.1 if arm == "n" else 0.7 for arm in trials["arm"]]
    with pytest.raises(ValueError, match=r"every cell of student x arm are equal; expected a spr"):
        two_way(trials, "test/m", "student", "arm")


def test_trials_that_are_left_out_of_a_layout_are_counted() -> None:
    trials = cells(0.0)
    trials.loc[[0, 1], "status"] = ["diverged", "failed"]
    trials.loc[5, "test/m"] = np.nan
    found = two_way(trials, "test/m", "student", "arm")
    assert found.n == 21
    assert found.lost == {"diverged": 1, "failed": 1, "without the value": 1}


def test_a_layout_does_not_pool_trials_that_differ_in_another_field() -> None:
    both = [cells(0.0).assign(objective=name) for name in ("cosine", "mse")]
    with pytest.raises(ValueError, match=r"a, c: trials differ in objective \(cosine, mse\)"):
        two_way(pd.concat(both, ignore_index=True), "test/m", "student", "arm")
    both[1]["seed"] += 100
    with pytest.raises(ValueError, match=r"a, c: trials differ in objective \(cosine, mse\)"):
        two_way(pd.concat(both, ignore_index=True), "test/m", "student", "arm")
    with pytest.raises(ValueError, match="a, c: trials share a seed; expected one trial a seed"):
        two_way(pd.concat([both[0], both[0]], ignore_index=True), "test/m", "student", "arm")


def test_student_less_teacher_is_a_sample_over_seeds() -> None:
    trials = pd.DataFrame(
        {"status": ["finished", "finished", "failed"], "seed": [0, 1, 2]}
        | {"test/rank": [16.0, 17.0, 3.0], "teacher/rank": [88.0, 88.0, 88.0]}
    )
    found = less_teacher(trials, "rank")
    assert found.values == {0: -72.0, 1: -71.0}
    assert found.lost == {"failed": 1}


def test_student_less_teacher_does_not_mix_groups_that_share_seeds() -> None:
    trials = pd.DataFrame(
        {"status": ["finished"] * 4, "seed": [0, 1, 0, 1], "student": ["a", "a", "b", "b"]}
        | {"test/rank": [16.0, 17.0, 1.0, 2.0], "teacher/rank": [88.0] * 4}
    )
    with pytest.raises(ValueError, match=r"rank: trials differ in student \(a, b\)"):
        less_teacher(trials, "rank")


def test_ranks_are_compared_where_the_fit_is_the_same() -> None:
    curves = pd.DataFrame(
        [
            *(("a", 0, 0.0, 1.0), ("a", 1, 0.5, 5.0), ("a", 2, 0.7, 7.0)),
            *(("b", 0, 0.0, 2.0), ("b", 1, 0.6, 8.0), ("b", 2, 0.55, 9.0)),
        ],
        columns=["trial", "step", "cosine_to_teacher", "rank/effective"],
    )
    assert at_matched(curves) == pytest.approx({"a": 6.0, "b": 8.0})
    assert at_matched(curves, level=0.3) == pytest.approx({"a": 3.4, "b": 5.0})
    assert at_matched(curves, level=0.65) == pytest.approx({"a": 6.5})
    measures = ["cosine_to_teacher", "rank/effective"]
    held = curves.rename(columns={name: f"validation/{name}" for name in measures})
    assert at_matched(held) == at_matched(curves)
    both = [held[held["trial"] == "a"], curves[curves["trial"] == "b"]]
    assert at_matched(pd.concat(both)) == at_matched(curves)


# ---- images ----


def records(rng: np.random.Generator, rate: float, seeds: int = 4, images: int = 200) -> np.ndarray:
    return (rng.random((seeds, images)) < rate).astype(float)


def test_equal_records_give_an_interval_of_zero() -> None:
    one = records(RNG, 0.7)
    assert image_interval(one, one) == (0.0, 0.0)


def test_hard_images_that_all_share_cancel_in_the_paired_interval() -> None:
    hard_N = RNG.random(500) < 0.5
    first = np.where(hard_N, 0.0, records(RNG, 0.98, 4, 500))
    second = np.where(hard_N, 0.0, records(RNG, 0.90, 4, 500))
    low, high = image_interval(first, second)
    assert 0 < low < first.mean() - second.mean() < high
    assert high - low < 0.3 * 2 * 1.96 * np.sqrt(2 * 0.25 / 500)


def test_image_intervals_cover_the_truth() -> None:
    rng, covered = np.random.default_rng(23), 0
    for _ in range(100):
        low, high = image_interval(records(rng, 0.8), records(rng, 0.7))
        covered += low <= 0.1 <= high
    assert stats.binom.ppf(0.001, 100, 0.95) <= covered


def test_the_joint_interval_is_wider_where_seeds_differ() -> None:
    rates = np.array([[0.55], [0.65], [0.75], [0.85]])
    first = (RNG.random((4, 400)) < rates).astype(float)
    second = records(RNG, 0.6, 4, 400)
    images, both = image_interval(first, second), joint_interval(first, second, pairs=False)
    assert both[1] - both[0] > 1.5 * (images[1] - images[0])
    assert both[0] < first.mean() - second.mean() < both[1]


def test_records_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        image_interval(records(RNG, 0.5, 2, 10), records(RNG, 0.5, 2, 11))
    with pytest.raises(ValueError, match="pairs of 2 and 3 seeds"):
        joint_interval(records(RNG, 0.5, 2, 10), records(RNG, 0.5, 3, 10), pairs=True)
