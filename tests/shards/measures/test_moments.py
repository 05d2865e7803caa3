"""Moments: NumPy's own figures, merging, every float type, what is refused."""

from functools import reduce

import numpy as np
import pytest
import torch

from shards.measures import moments
from shards.measures.moments import Moments
from tests.shards.measures.made import normal, orthonormal_centred


def assert_equal(found: Moments, expected: Moments, rel: float = 1e-12) -> None:
    scale = np.abs(expected.m2_DD).max()
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean_D, expected.mean_D, atol=rel * expected.square**0.5)
    np.testing.assert_allclose(found.m2_DD, expected.m2_DD, atol=rel * scale)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_moments_are_numpys(shift):
    x_ND = normal(500, 9) + shift
    found = Moments.of(x_ND)
    np.testing.assert_allclose(found.mean_D, x_ND.mean(axis=0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        found.m2_DD / 500, np.cov(x_ND.T, bias=True), rtol=1e-9, atol=1e-12 * (1 + shift)
    )
    np.testing.assert_allclose(found.uncentred_DD, x_ND.T @ x_ND, rtol=1e-12, atol=1e-9)
    assert found.variance == pytest.approx(x_ND.var(axis=0).sum())
    assert found.square == pytest.approx((x_ND**2).sum(axis=1).mean())


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_merge_to_the_whole(parts):
    x_ND = normal(1001, 12) + np.linspace(-3, 3, 12)
    whole = Moments.of(x_ND)
    states = [Moments.of(part) for part in np.array_split(x_ND, parts)]
    assert_equal(reduce(Moments.merge, states), whole)
    assert_equal(reduce(Moments.merge, reversed(states)), whole)
    empty = Moments(0, np.zeros(12), np.zeros((12, 12)))
    assert_equal(reduce(Moments.merge, states, empty), whole)
    assert whole.merge(empty) is whole
    np.testing.assert_allclose(
        reduce(Moments.merge, states).eigenvalues(), whole.eigenvalues(), rtol=1e-11
    )


def test_a_merge_of_far_apart_parts_keeps_its_digits():
    near, far = normal(300, 4), normal(300, 4, seed=1) + 1e6
    found = Moments.of(near).merge(Moments.of(far))
    x_ND = np.concatenate([near, far]).astype(np.longdouble)
    exact = (x_ND - x_ND.mean(axis=0)).T @ (x_ND - x_ND.mean(axis=0))
    np.testing.assert_allclose(found.m2_DD, exact.astype(np.float64), rtol=1e-13)


@pytest.mark.parametrize("block", [1, 7, 100, 4096])
def test_blocks_change_nothing(block, monkeypatch):
    x_ND, expected = normal(100, 5) + 1, Moments.of(normal(100, 5) + 1)
    monkeypatch.setattr(moments, "BLOCK", block)
    assert_equal(Moments.of(x_ND), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_float_type_is_widened_before_it_is_summed(dtype):
    x_ND = torch.from_numpy(normal(3000, 8) + 0.5).to(dtype)
    exact = x_ND.double().numpy()
    assert_equal(Moments.of(x_ND), Moments.of(exact), rel=0)
    np.testing.assert_allclose(Moments.of(x_ND).m2_DD / 3000, np.cov(exact.T, bias=True))
    if dtype is not torch.bfloat16:
        assert_equal(Moments.of(x_ND.numpy()), Moments.of(exact), rel=0)


def test_several_sets_side_by_side():
    x_ND, y_NE = normal(50, 3), normal(50, 5, seed=1)
    both = Moments.of(x_ND, torch.from_numpy(y_NE))
    assert_equal(both.part(0, 3), Moments.of(x_ND))
    assert_equal(both.part(3, 8), Moments.of(y_NE))
    cross = (x_ND - x_ND.mean(axis=0)).T @ (y_NE - y_NE.mean(axis=0))
    np.testing.assert_allclose(both.m2_DD[:3, 3:], cross, atol=1e-13)


def test_eigenvalues_from_the_state_alone_hide_their_own_rounding():
    low = orthonormal_centred(200, 3) @ np.random.default_rng(0).normal(size=(3, 40))
    values_D = Moments.of(low).eigenvalues()
    assert np.count_nonzero(values_D) == 3
    np.testing.assert_allclose(
        values_D[:3], np.linalg.svd(low, compute_uv=False)[:3] ** 2 / 200, rtol=1e-12
    )
    assert not Moments.of(np.full((300, 5), 1 / 3)).eigenvalues().any()
    assert not Moments.of(np.ones((1, 5))).eigenvalues().any()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([np.ones(4)], r"must be rows \(N, D\) with N, D > 0; got \[\(4,\)\]"),
        ([np.ones((0, 4))], r"got \[\(0, 4\)\]"),
        ([np.ones((4, 0))], r"got \[\(4, 0\)\]"),
        ([np.ones((4, 2)), np.ones((3, 2))], "differ in length"),
        ([np.array([[1.0, np.nan]])], "got NaN or infinity"),
        ([torch.tensor([[1.0, torch.inf]])], "got NaN or infinity"),
        ([np.array([[1e200], [-1e200]])], "too large: their squares overflow"),
    ],
)
def test_moments_refuse_bad_input(sets, said):
    with pytest.raises(ValueError, match=said):
        Moments.of(*sets)


def test_other_widths_do_not_merge():
    with pytest.raises(ValueError, match="widths"):
        Moments.of(np.ones((4, 2))).merge(Moments.of(np.ones((4, 3))))
