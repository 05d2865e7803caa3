"""Ranks: closed forms, what must not change them, float64 SVD, inputs without an answer."""

import numpy as np
import pytest
import torch

from shards.measures.moments import Moments
from shards.measures.spectrum import (
    alpha,
    centred_eigenvalues,
    cumulative,
    dims_for,
    effective_rank,
    paper_rank,
    participation_ratio,
    rankme,
    roy_vetterli_rank,
    uncentred_eigenvalues,
    within_classes,
)
from tests.shards.measures.made import (
    ill_conditioned,
    normal,
    orthonormal_centred,
    rank_deficient,
    rotation,
    unit_rows,
)

RANKS = {
    "effective": effective_rank,
    "roy_vetterli": lambda x: roy_vetterli_rank(centred_eigenvalues(x)),
    "participation": lambda x: participation_ratio(centred_eigenvalues(x)),
}
each_rank = pytest.mark.parametrize("measure", RANKS.values(), ids=RANKS)


# ---- closed forms ----


@each_rank
def test_orthonormal_centred_columns_give_d_and_rank_one_gives_one(measure):
    assert measure(orthonormal_centred(50, 8)) == pytest.approx(8, abs=1e-9)
    line = np.outer(np.random.default_rng(0).normal(size=400), np.ones(64))
    assert measure(line) == pytest.approx(1, abs=1e-9)
    assert measure(line[:, :1]) == pytest.approx(1, abs=1e-12)  # D = 1


@each_rank
def test_constants_scales_rotations_order_and_repetition_change_nothing(measure):
    x_ND = normal(60, 10)
    same = (x_ND + 5, x_ND @ rotation(10), 1e-3 * x_ND, x_ND[::-1], np.tile(x_ND, (3, 1)))
    for other in same:
        assert measure(other) == pytest.approx(measure(x_ND), rel=1e-9)


def test_ranks_of_two_known_variances():
    x_ND = orthonormal_centred(30, 2) * np.sqrt([3, 1])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(x_ND) == pytest.approx(np.exp(entropy))
    assert paper_rank(centred_eigenvalues(x_ND)) == pytest.approx(np.exp(entropy), abs=1e-8)
    assert participation_ratio(centred_eigenvalues(x_ND)) == pytest.approx(16 / 10)
    share = np.sqrt(3) / (np.sqrt(3) + 1)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert roy_vetterli_rank(centred_eigenvalues(x_ND)) == pytest.approx(np.exp(entropy))


def test_rankme_of_orthonormal_columns_is_not_centred():
    assert rankme(np.eye(20, 8)) == pytest.approx(8, rel=1e-5)
    assert rankme(np.zeros((5, 3))) == 0
    shifted = orthonormal_centred(50, 4) * 1e-3 + 1
    assert rankme(shifted) < 1.01 < effective_rank(shifted)


def test_dims_and_the_cumulative_curve():
    values_D = np.array([6.0, 3.0, 1.0, 0.0])
    assert cumulative(values_D) == pytest.approx([0.6, 0.9, 1, 1])
    assert [dims_for(values_D, s) for s in (0.5, 0.6, 0.61, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_alpha_of_a_power_law_is_its_exponent():
    rank_D = np.arange(1, 301)
    assert alpha(7 * rank_D**-1.3) == pytest.approx((1.3, 1))
    assert alpha(np.ones(100))[0] == 0
    values_D = rank_D**-1.3
    values_D[[0, 1, 2]], values_D[100:] = 50.0, 0.0  # outside of ranks 4 to 100
    assert alpha(values_D) == pytest.approx((1.3, 1))


def test_alpha_is_the_weighted_fit_of_numpy():
    values_D = np.sort(np.random.default_rng(0).lognormal(size=150))[::-1]
    x, y, w = np.log(np.arange(4, 101)), np.log(values_D[3:100]), 1 / np.arange(4, 101)
    slope, level = np.polyfit(x, y, 1, w=np.sqrt(w))
    left = np.sum(w * (y - slope * x - level) ** 2)
    total = np.sum(w * (y - np.average(y, weights=w)) ** 2)
    assert alpha(values_D) == pytest.approx((-slope, 1 - left / total))


@pytest.mark.parametrize(
    "values_D",
    [np.ones(99), np.r_[np.ones(99), 0.0, 0.0], np.r_[np.ones(99), 1e-9]],
    ids=["99 dimensions", "rank 99", "rank 99 up to precision"],
)
def test_alpha_is_undefined_where_rank_100_cannot_be_estimated(values_D):
    assert np.isnan(alpha(values_D, floor=1e-8)).all()


# ---- against singular values in float64 ----


def svd_ranks(x_ND: np.ndarray) -> dict[str, float]:
    def entropy(p):
        return np.exp(-np.sum(p[p > 0] * np.log(p[p > 0])))

    x_ND = np.asarray(x_ND, dtype=np.float64)
    s = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False)
    whole = np.linalg.svd(x_ND, compute_uv=False)
    p, q = s**2 / np.sum(s**2), whole / whole.sum() + 1e-7
    return {
        "effective": entropy(p),
        "participation": 1 / np.sum(p**2),
        "roy_vetterli": entropy(s / s.sum()),
        "rankme": np.exp(-np.sum(q * np.log(q))),
    }


INPUTS = {
    "random": normal(700, 64) + 0.3,
    "ill-conditioned": ill_conditioned(700, 64),
    "a narrow cone": unit_rows(normal(700, 64) * 1e-3 + 1),
    "rank 5": rank_deficient(700, 64, 5),
    "rank 5 in float32": rank_deficient(700, 64, 5).astype(np.float32),
    "rank 60": rank_deficient(700, 64, 60),
    "N = D + 1": normal(65, 64),
    "N = D": normal(64, 64),
    "N < D": normal(20, 64),
    "D = 1": normal(50, 1),
}


@pytest.mark.parametrize("x_ND", INPUTS.values(), ids=INPUTS)
def test_ranks_are_those_of_the_singular_values(x_ND):
    expected, values_D = svd_ranks(x_ND), centred_eigenvalues(x_ND)
    assert effective_rank(x_ND) == pytest.approx(expected["effective"], abs=1e-10)
    assert participation_ratio(values_D) == pytest.approx(expected["participation"], abs=1e-10)
    assert roy_vetterli_rank(values_D) == pytest.approx(expected["roy_vetterli"], abs=1e-7)
    assert rankme(x_ND) == pytest.approx(expected["rankme"], abs=1e-7)


@pytest.mark.parametrize("large", [3, 40], ids=["most are small", "few are small"])
def test_small_singular_values_are_had_from_the_rows(large):
    """They are noise in the covariance; whichever way they are taken apart, they are SVD's."""
    s_D = np.r_[np.logspace(0, -1, large), np.logspace(-6, -11, 64 - large)]
    x_ND = (orthonormal_centred(700, 64) * s_D) @ rotation(64)
    found = np.sqrt(700 * centred_eigenvalues(x_ND))
    np.testing.assert_allclose(found, s_D, rtol=1e-5, atol=2e-12)
    from_the_state = np.sqrt(700 * Moments.of(x_ND).eigenvalues())
    assert not np.allclose(from_the_state, s_D, rtol=0.5, atol=2e-12)


def test_the_state_alone_is_within_the_stated_noise():
    x_ND = rank_deficient(700, 64, 5)
    values_D = Moments.of(x_ND).eigenvalues()
    assert np.count_nonzero(values_D) == 5
    expected = svd_ranks(x_ND)
    assert participation_ratio(values_D) == pytest.approx(expected["participation"], abs=1e-10)
    assert roy_vetterli_rank(values_D) == pytest.approx(expected["roy_vetterli"], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_and_bfloat16_are_measured_as_the_numbers_they_are(dtype):
    x_ND = torch.from_numpy(normal(300, 20)).to(dtype)
    exact = x_ND.double().numpy()
    for name, measure in RANKS.items():
        assert measure(x_ND) == pytest.approx(svd_ranks(exact)[name], abs=1e-9)
    assert rankme(x_ND) == pytest.approx(svd_ranks(exact)["rankme"], abs=1e-9)
    labels_N = np.arange(300) % 3
    assert within_classes(x_ND, labels_N) == within_classes(exact, labels_N)


# ---- inside classes ----


def test_within_classes_is_the_mean_over_classes():
    x_ND = normal(90, 6)
    labels_N = np.repeat([7, 3, 5], [50, 39, 1])
    found, share = within_classes(x_ND, labels_N)
    parts = x_ND[:50], x_ND[50:89]
    for name, measure in RANKS.items():
        assert found[name] == pytest.approx(np.mean([measure(part) for part in parts]))
    inside = sum(len(part) * part.var(axis=0).sum() for part in parts)
    assert share == pytest.approx(inside / (90 * x_ND.var(axis=0).sum()))


def test_collapsed_classes_have_rank_0_and_no_variance_inside():
    found, share = within_classes(np.repeat(np.eye(4), 5, axis=0), np.repeat(np.arange(4), 5))
    assert set(found.values()) == {0.0}
    assert share == 0
    single, share = within_classes(np.eye(4), np.arange(4))
    assert np.isnan(list(single.values())).all()
    assert share == 0
    assert np.isnan(within_classes(np.ones((4, 2)), np.zeros(4, dtype=np.int64))[1])


# ---- inputs without variance, or without an answer ----


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("count", [3, 37, 5000])
def test_constant_embeddings_have_rank_0(value, count):
    x_ND = np.full((count, 5), value, dtype=np.float32)
    assert [measure(x_ND) for measure in RANKS.values()] == [0, 0, 0]
    assert paper_rank(centred_eigenvalues(x_ND)) == 0
    assert dims_for(centred_eigenvalues(x_ND), 0.9) == 0


def test_fewer_samples_than_dimensions():
    x_ND = np.random.default_rng(0).normal(size=(6, 50))
    values_D = centred_eigenvalues(x_ND)
    assert values_D.shape == uncentred_eigenvalues(x_ND).shape == (50,)
    assert np.count_nonzero(values_D) == 5  # N - 1
    assert effective_rank(x_ND) <= 5
    assert roy_vetterli_rank(values_D) <= 5 + 1e-9


@pytest.mark.parametrize(
    ("x_ND", "said"),
    [
        (np.ones((1, 4)), r"at least 2 samples in rows; got shape \(1, 4\)"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "got NaN or infinity"),
        (np.array([[1.0, np.inf], [0.0, 1.0]]), "got NaN or infinity"),
    ],
)
def test_ranks_refuse_bad_embeddings(x_ND, said):
    with pytest.raises(ValueError, match=said):
        effective_rank(x_ND)
    if "NaN" in said:
        with pytest.raises(ValueError, match=said):
            rankme(x_ND)
