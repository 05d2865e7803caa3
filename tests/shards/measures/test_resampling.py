"""Intervals: indices shared by all students, SciPy's bootstrap, the jackknife and its coverage."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import binom

from shards.measures.resampling import (
    bootstrap_indices,
    bootstrap_means,
    mean_interval,
    permutation,
    proportion_interval,
    rank_curve,
    rank_intervals,
)
from shards.measures.spectrum import effective_rank
from tests.shards.measures.made import normal, rotation, unit_rows

FIRST = [4, 1, 9, 2, 4, 5, 0, 3, 1, 9]  # of range(10), seed 0: for ever
CORRECT = np.random.default_rng(0).random(400) < 0.85


# ---- accuracy ----


def test_indices_are_a_pure_function_of_count_and_seed():
    whole = bootstrap_indices(101, 7, 0, 6)
    assert whole.shape == (6, 101)
    assert np.array_equal(whole[2:5], bootstrap_indices(101, 7, 2, 5))
    for other in (bootstrap_indices(101, 8, 0, 6), bootstrap_indices(102, 7, 0, 6)[:, :101]):
        assert np.mean(other == whole) < 0.1
    assert bootstrap_indices(10, 0, 0, 1)[0].tolist() == FIRST
    many = np.bincount(bootstrap_indices(50, 0, 0, 2000).ravel(), minlength=50)
    assert stats.chisquare(many).pvalue > 1e-3
    assert sorted(permutation(500, 3)) == list(range(500))
    assert np.mean(permutation(500, 3) == np.arange(500)) < 0.05


@pytest.mark.parametrize("values", [CORRECT, np.random.default_rng(1).lognormal(size=60)])
def test_intervals_are_scipys(values):
    data = (np.asarray(values, dtype=np.float64),)
    theirs = stats.bootstrap(data, np.mean, n_resamples=20_000, method="bca", rng=0)
    ours = mean_interval(values, 0)
    expected = theirs.confidence_interval.low, theirs.confidence_interval.high
    assert ours == pytest.approx(expected, abs=0.08 * (expected[1] - expected[0]))
    assert ours[0] < values.mean() < ours[1]


def test_differences_of_two_students_keep_their_pairs():
    better = CORRECT | (np.arange(400) % 40 == 0)
    difference = better.astype(float) - CORRECT
    paired = bootstrap_means(better.astype(float), 3) - bootstrap_means(CORRECT.astype(float), 3)
    assert bootstrap_means(difference, 3) == pytest.approx(paired, abs=1e-12)
    low, high = mean_interval(difference, 3)
    assert high - low < 0.5 * np.subtract(*mean_interval(CORRECT, 3)[::-1])


def test_intervals_of_equal_or_of_no_values():
    assert mean_interval(np.ones(30), 0) == (1, 1)
    assert mean_interval(np.zeros(1), 0) == (0, 0)
    almost = np.ones(300)
    almost[7] = 0
    low, high = mean_interval(almost, 0)
    assert 0.97 < low < almost.mean() < high <= 1
    for bad in (np.ones(0), np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="finite values"):
            mean_interval(bad, 0)


# ---- ranks ----


def test_the_jackknife_written_out():
    x = normal(20, 4)
    logs = [np.log(effective_rank(np.delete(x, i, axis=0))) for i in range(20)]
    error = np.sqrt(19 / 20 * np.sum((logs - np.mean(logs)) ** 2))
    reach = np.exp(stats.t.ppf(0.975, 19) * error)
    rank = effective_rank(x)
    found = rank_intervals(x, 0)
    assert found["effective"] == pytest.approx((rank / reach, rank * reach))
    assert list(found) == ["effective", "roy_vetterli", "participation"]


def test_the_interval_covers_the_expected_rank_at_its_n():
    ranks, found = [], []
    for seed in range(300):
        x = normal(120, 5, seed)
        ranks.append(effective_rank(x))
        found.append(rank_intervals(x, 0)["effective"])
    low, high = np.array(found).T
    covered = np.mean((low < np.mean(ranks)) & (np.mean(ranks) < high))
    assert 0.90 < covered < 0.99


def test_a_bootstrap_excludes_its_own_estimate_and_the_jackknife_does_not():
    x = unit_rows(np.random.default_rng(0).normal(size=(360, 128)) * np.arange(1, 129) ** -0.5)
    rank = effective_rank(x)
    again = [effective_rank(x[index]) for index in bootstrap_indices(360, 0, 0, 60)]
    assert max(again) < rank
    low, high = rank_intervals(x, 0)["effective"]
    assert low < rank < high < 1.1 * low


def test_what_changes_no_interval_and_no_curve():
    x = normal(150, 6)
    expected, curve = rank_intervals(x, 1), rank_curve(x, 1)
    for other in (x @ rotation(6), 5 * x - 1):
        assert np.array(list(rank_intervals(other, 1).values())) == pytest.approx(
            np.array(list(expected.values()))
        )
        assert np.array(rank_curve(other, 1)) == pytest.approx(np.array(curve))
    half = torch.from_numpy(x).bfloat16()
    exact = half.double().numpy()
    assert rank_intervals(half, 1) == rank_intervals(exact, 1)
    assert rank_curve(half, 1) == rank_curve(exact, 1)


def test_ranks_that_have_no_spread_or_no_answer():
    assert set(rank_intervals(np.full((40, 3), 1 / 3), 0).values()) == {(0.0, 0.0)}
    assert rank_intervals(normal(40, 1), 0)["effective"] == pytest.approx((1, 1))
    lonely = np.zeros((40, 3))
    lonely[3] = 1
    for x in (lonely, normal(2, 3)):
        assert np.isnan(list(rank_intervals(x, 0).values())).all()
    assert rank_curve(normal(1, 3), 0) == []
    with pytest.raises(ValueError, match="got NaN or infinity"):
        rank_intervals(normal(40, 3) * np.nan, 0)


def test_the_rank_grows_with_n_up_to_the_estimate_itself():
    x = np.random.default_rng(0).normal(size=(2200, 40)) * np.arange(1, 41) ** -0.5
    sizes, ranks = zip(*rank_curve(x, 0), strict=True)
    assert sizes == (100, 200, 360, 1000, 2000, 2200)
    assert (np.diff(ranks) > 0).all()
    assert ranks[-1] == pytest.approx(effective_rank(x), rel=1e-12)
    order = permutation(2200, 0)
    thousands = [effective_rank(x[order[start : start + 1000]]) for start in (0, 1000)]
    assert ranks[3] == pytest.approx(np.mean(thousands), rel=1e-12)
    assert [size for size, _ in rank_curve(x[:1000], 0)] == [100, 200, 360, 1000]


def wilson(errors: int, count: int) -> tuple[float, float]:
    """The formula as Wilson gives it, z = 1.959964."""
    z, p = 1.959963984540054, 1 - errors / count
    middle, scale = p + z**2 / (2 * count), 1 + z**2 / count
    half = z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return (middle - half) / scale, (middle + half) / scale


@pytest.mark.parametrize(("errors", "count"), [(0, 359), (1, 359), (120, 359), (359, 359), (1, 1)])
def test_an_accuracys_interval_is_wilsons(errors, count):
    correct_N = np.arange(count) >= errors
    assert proportion_interval(correct_N) == pytest.approx(wilson(errors, count), abs=1e-12)


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99, 0.999])
def test_an_accuracys_interval_covers_near_one_as_well(accuracy):
    """Exact coverage over the binomial distribution; nominally 95 %."""
    count, errors = 359, np.arange(60 if accuracy > 0.6 else 360)
    covered = [low <= accuracy <= high for low, high in (wilson(e, count) for e in errors)]
    assert binom.pmf(errors, count, 1 - accuracy)[covered].sum() >= 0.93
