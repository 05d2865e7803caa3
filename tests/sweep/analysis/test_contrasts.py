"""Estimates and tests: closed forms, SciPy's and statsmodels' values, coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from sweep.analysis.contrasts import (
    Contrast,
    pair_correlation,
    paired,
    seed_values,
    sign_flip_p,
    single_sd,
    slope_weights,
    welch,
)
from sweep.analysis.effects import correction, effect_size, noncentrality_interval
from sweep.analysis.families import Share, holm, share_of
from sweep.analysis.floor import floor_of, floor_seeds
from sweep.analysis.power import (
    detectable,
    detectable_margin,
    equivalence_seeds,
    paired_power,
    seeds_needed,
    welch_power,
)
from sweep.analysis.samples import Sample, published_sample, sample_of, t_interval

RNG = np.random.default_rng(7)
A, B = RNG.normal(0.70, 0.01, 8), RNG.normal(0.69, 0.03, 8)


def sample(values: np.ndarray | list[float], label: str = "") -> Sample:
    return sample_of(dict(enumerate(map(float, values))), label)


def difference(a: np.ndarray, b: np.ndarray, test: str = "welch") -> Contrast:
    found = (welch if test == "welch" else paired)([sample(a), sample(b)], [1, -1])
    assert found is not None
    return found


# ---- samples ----


def test_t_interval_of_three_values_is_the_textbooks() -> None:
    low, high = t_interval(sample([1.0, 2.0, 3.0])) or (0, 0)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert t_interval(sample([1.0])) is None


def test_t_interval_of_three_seeds_covers_the_truth_in_95_percent() -> None:
    draws = np.random.default_rng(1).standard_normal((4000, 3))
    ends = [t_interval(sample(row)) or (1.0, -1.0) for row in draws]
    covered = sum(low <= 0 <= high for low, high in ends)
    assert 0.94 < covered / 4000 < 0.96


def test_a_deviation_of_ddof_0_becomes_one_of_ddof_1() -> None:
    values = [71.08, 70.58, 71.66]  # the paper's clean probes of S
    converted = published_sample("S", 3, float(np.mean(values)), float(np.std(values)), 0)
    assert converted.sd == pytest.approx(np.std(values, ddof=1))


def test_a_sample_of_nothing_or_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        sample([])
    with pytest.raises(ValueError, match="expected finite values"):
        sample([1.0, math.nan])


# ---- tests ----


def test_welch_is_scipys() -> None:
    expected = stats.ttest_ind(A, B, equal_var=False)
    found = difference(A, B)
    assert found.p_differs() == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(expected.df)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_paired_is_scipys() -> None:
    expected = stats.ttest_rel(A, B)
    found = difference(A, B, "paired")
    assert found.p_differs() == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_equivalence_is_statsmodels_tost() -> None:
    assert difference(A, B).p_inside(0.02) == pytest.approx(
        ttost_ind(A, B, -0.02, 0.02, usevar="unequal")[0]
    )
    assert difference(A, B, "paired").p_inside(0.02) == pytest.approx(
        ttost_paired(A, B, -0.02, 0.02)[0]
    )


def test_pairs_are_formed_by_seed_and_not_by_position() -> None:
    first, second = sample_of({3: 1.0, 1: 5.0, 2: 2.0}), sample_of({1: 4.0, 2: 1.5, 9: 0.0})
    assert seed_values([first, second], [1, -1]) == {1: 1.0, 2: 0.5}


def test_no_spread_and_unknown_deviations_give_no_test() -> None:
    assert welch([sample([1.0, 1.0]), sample([2.0, 2.0])], [1, -1]) is None
    assert paired([sample([1.1, 2.1, 3.1]), sample([0.1, 1.1, 2.1])], [1, -1]) is None
    assert welch([sample([1.0]), sample([2.0, 3.0])], [1, -1]) is None


@pytest.mark.parametrize("n", [8, 10, 12, 100])
def test_rounding_of_equal_values_is_no_spread(n: int) -> None:
    """numpy's deviation of twelve values of 0.1 is 1e-17, of which a t-test made p < 0.0001."""
    assert np.std([0.1] * 12, ddof=1) > 0
    for value in (0.1, 0.6, 0.7, 36 / 359, 1003 / 10_000):
        one, other = sample([value] * n), sample([value + 0.1] * n)
        assert (one.sd, other.sd) == (0, 0)
        assert welch([one, other], [1, -1]) is None
        assert paired([one, other], [1, -1]) is None
        spread = sample(list(np.linspace(0.4, 0.5, n)))
        assert pair_correlation(one, spread) is None
        found = welch([one, spread], [1, -1])
        assert found is not None
        assert found.df == pytest.approx(n - 1)
    # Real spread is kept, however small: accuracies of 10,000 images that differ by one image.
    assert (sample([0.1] * 9 + [0.1001]).sd or 0) == pytest.approx(0.0001 / math.sqrt(10))


def test_differences_are_rounded_in_proportion_to_their_terms() -> None:
    rest = [(0.1 * i + 0.3) - 0.1 * i - 0.3 for i in range(10)]  # all 0 but for rounding
    assert 0 < np.std(rest, ddof=1) < 1e-15
    assert (sample(rest).sd or 0) > 0
    assert sample_of(dict(enumerate(rest)), scale=1.0).sd == 0


def test_pair_correlation_is_numpys() -> None:
    assert pair_correlation(sample(A), sample(B)) == pytest.approx(np.corrcoef(A, B)[0, 1])
    assert pair_correlation(sample([1.0, 2.0]), sample([1.0, 2.0])) is None


def test_slope_weights_give_the_least_squares_slope() -> None:
    sizes, means = [811_264, 1_405_440, 2_732_032], [15.91, 16.63, 16.66]
    weights = slope_weights(sizes)
    expected = stats.linregress(np.log(sizes), np.log(means)).slope
    assert sum(w * math.log(m) for w, m in zip(weights, means, strict=True)) == pytest.approx(
        expected
    )
    with pytest.raises(ValueError, match="two different"):
        slope_weights([5, 5])


def test_outside_and_inside_of_a_margin_exclude_each_other() -> None:
    near = Contrast("welch", 0.001, 0.002, 9)
    far = Contrast("welch", 0.05, 0.002, 9)
    assert max(near.p_inside(0.02), far.p_outside(0.02)) < 0.001
    assert min(near.p_outside(0.02), far.p_inside(0.02)) > 0.9


# ---- the exact check ----


def test_the_floor_of_sign_flips() -> None:
    assert [floor_of(n) for n in (0, 1, 3, 5, 8)] == [1, 1, 0.25, 0.0625, 2 / 256]
    assert sign_flip_p({0: 1.0, 1: 2.0, 2: 3.0}) == 0.25
    assert [floor_seeds(0.05 / m) for m in (1, 6, 25)] == [6, 8, 10]


def test_sign_flips_are_scipys_exact_permutation_test() -> None:
    values = A - B
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(dict(enumerate(values))) == pytest.approx(expected.pvalue)


def test_equal_values_of_both_signs_count_as_ties() -> None:
    assert sign_flip_p({0: 0.1, 1: -0.1}) == 1.0
    assert sign_flip_p({0: 0.1, 1: 0.2, 2: -0.3}) == 1.0


def test_theta_of_one_seed_has_the_error_times_root_n() -> None:
    """Of Welch's test also where the groups share few of their seeds, or have unlike numbers."""
    first, second = sample(A), sample_of({i + 5: float(value) for i, value in enumerate(B)})
    contrast = welch([first, second], [1, -1])
    assert contrast is not None
    assert single_sd([first, second], [1, -1], contrast) == pytest.approx(
        math.sqrt(A.var(ddof=1) + B.var(ddof=1))
    )
    pairs = paired([first, second], [1, -1])
    assert pairs is not None
    assert single_sd([first, second], [1, -1], pairs) == pytest.approx((A[5:] - B[:3]).std(ddof=1))


def test_many_seeds_are_flipped_at_random_with_a_fixed_generator() -> None:
    values = dict(enumerate(RNG.normal(0.5, 1, 30)))
    p = sign_flip_p(values)
    assert p == sign_flip_p(values)
    t = stats.ttest_1samp(list(values.values()), 0).pvalue
    assert abs(math.log10(p / t)) < 0.5


# ---- effect sizes ----


def test_hedges_correction_in_closed_form() -> None:
    assert correction(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert correction(4) == pytest.approx(math.sqrt(2 / math.pi))
    assert correction(30) == pytest.approx(1 - 3 / (4 * 30 - 1), abs=1e-4)


def test_the_interval_of_a_noncentrality_has_its_tails() -> None:
    low, high = noncentrality_interval(2.5, 8)
    assert stats.nct.sf(2.5, 8, low) == pytest.approx(0.025, abs=1e-6)
    assert stats.nct.cdf(2.5, 8, high) == pytest.approx(0.025, abs=1e-6)
    below, above = (noncentrality_interval(t, 8) for t in (99.9, 100.1))
    assert below == pytest.approx(above, rel=0.03)


@pytest.mark.parametrize("test", ["welch", "paired"])
def test_intervals_of_hedges_g_cover_the_truth_and_g_has_no_bias(test: str) -> None:
    rng = np.random.default_rng(3)
    correlation = 0.7 if test == "paired" else 0.0
    runs, covered, total = 800, 0, 0.0
    for _ in range(runs):
        shared, own = rng.standard_normal(6), rng.standard_normal((2, 6))
        a, b = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        found = effect_size(sample(a + 1.0), sample(b), difference(a + 1.0, b, test))
        assert found is not None
        covered += found.low <= 1 <= found.high
        total += found.g
    assert 0.92 < covered / runs < 0.97
    assert total / runs == pytest.approx(1.0, abs=0.05)


# ---- families and power ----


def test_holm_is_statsmodels() -> None:
    p_values = [0.001, 0.04, 0.03, 0.2, 0.011]
    rejected, adjusted, *_ = multipletests(p_values, 0.05, "holm")
    found = holm(p_values, 0.05)
    assert [one.p for one in found] == pytest.approx(list(adjusted))
    assert [one.significant for one in found] == list(rejected)
    assert found[0].alpha == pytest.approx(0.01)
    assert found[4].alpha == pytest.approx(0.0125)


def test_what_could_not_be_tested_stays_in_the_family() -> None:
    alone, among = holm([0.03], 0.05)[0], holm([0.03, None], 0.05)[0]
    assert alone.significant
    assert not among.significant
    assert holm([], 0.05) == []


def test_planned_looks_share_alpha_and_others_have_none() -> None:
    assert share_of(0.05, (), ()) == Share(0.05, (), False)
    assert share_of(0.05, (), (10,)) == share_of(0.05, (), (10, 10)) == Share(0.05, (10,), False)
    assert share_of(0.05, (), (10, 20)) == Share(0.05, (10,), True)
    assert share_of(0.05, (10, 20), (10,)) == Share(0.025, (10, 20), False)
    assert share_of(0.05, (10, 20), (10, 20)) == Share(0.025, (10, 20), False)
    assert share_of(0.05, (10, 20), (10, 15)) == Share(0.025, (10, 20), True)
    assert share_of(0.05, (10, 20), (10, 15, 20)) == Share(0.025, (10, 20), False)


@pytest.mark.parametrize(("n", "effects"), [(3, (3.5, 6.8, 11.5)), (10, (1.3, 1.7, 2.1))])
def test_effects_that_families_of_1_6_and_25_need(n: int, effects: tuple[float, ...]) -> None:
    found = [detectable(n, 0.05 / m) or 0.0 for m in (1, 6, 25)]
    assert found == pytest.approx(effects, abs=0.06)


def test_power_of_welch_is_that_of_a_simulation() -> None:
    draws = np.random.default_rng(9).standard_normal((40_000, 2, 3))
    p = stats.ttest_ind(draws[:, 0] + 3.5, draws[:, 1], axis=1, equal_var=False).pvalue
    assert welch_power(3.5, 3, 0.05) == pytest.approx((p < 0.05).mean(), abs=0.008)
    assert welch_power(0.0, 10, 0.05) == pytest.approx(0.05, abs=0.003)
    assert paired_power(0.0, 10, 0.05) == pytest.approx(0.05)
    assert detectable(1, 0.05) is None


def test_seeds_needed_have_the_power_and_one_seed_less_does_not() -> None:
    n = seeds_needed(1.0, 0.05) or 0
    assert welch_power(1.0, n, 0.05) >= 0.8 > welch_power(1.0, n - 1, 0.05)
    assert seeds_needed(100.0, 0.05 / 6) == 8  # the floor of sign flips asks for them
    assert seeds_needed(0.001, 0.05) is None


def test_seeds_for_an_equivalence() -> None:
    n = equivalence_seeds(0.0, 1.0, 1.0, 0.05) or 0
    draws = np.random.default_rng(11).standard_normal((20_000, n))
    error = draws.std(axis=1, ddof=1) / math.sqrt(n)
    bound = stats.t.isf(0.05, n - 1)
    shown = ((draws.mean(axis=1) + 1) / error > bound) & ((draws.mean(axis=1) - 1) / error < -bound)
    assert 0.79 < shown.mean() < 0.9
    assert equivalence_seeds(1.2, 1.0, 1.0, 0.05) is None


def test_the_margin_that_an_equivalence_can_show_is_shown_as_often_as_its_power() -> None:
    n, alpha = 10, 0.05 / 3
    margin = detectable_margin(n - 1, alpha) / math.sqrt(n)
    draws = np.random.default_rng(13).standard_normal((20_000, n))
    error = draws.std(axis=1, ddof=1) / math.sqrt(n)
    bound = stats.t.isf(alpha, n - 1)
    means = draws.mean(axis=1)
    shown = ((means + margin) / error > bound) & ((means - margin) / error < -bound)
    assert shown.mean() == pytest.approx(0.8, abs=0.01)
