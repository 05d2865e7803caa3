"""Truncation: where classes lie is where accuracy goes; what changes nothing; what is refused."""

import numpy as np
import pytest
import torch

from shards.measures.truncated import dims, truncated_accuracies
from tests.shards.measures.made import normal, rotation


def two_classes(n: int, component: int, seed: int = 0):
    """Four dimensions of falling variance; the class is the sign of one of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 4)) * [8, 4, 2, 1]
    x[:, component] = (2 * labels - 1) * np.abs(x[:, component]) + (2 * labels - 1) * 0.3
    return x, labels


def scores(change=lambda x: x, component=1):
    train, labels = two_classes(600, component)
    test, test_labels = two_classes(400, component, seed=1)
    return list(truncated_accuracies(change(train), labels, change(test), test_labels))


def test_components_are_powers_of_two_and_all():
    assert dims(1) == [1]
    assert dims(2) == [1, 2]
    assert dims(5) == [1, 2, 4, 5]
    assert dims(512) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize(("component", "needed"), [(0, 1), (1, 2), (3, 4)])
def test_accuracy_comes_with_the_component_that_holds_the_class(component, needed):
    for k, refit, fixed in scores(component=component):
        if k < needed:
            assert refit == pytest.approx(0.5, abs=0.1)
            assert fixed == pytest.approx(0.5, abs=0.1)
        else:
            assert min(refit, fixed) > 0.95
    assert [k for k, _, _ in scores()] == [1, 2, 4]


def test_nothing_is_cut_at_the_full_width():
    k, refit, fixed = scores()[-1]
    assert k == 4
    assert refit == fixed


def test_rotations_shifts_and_scales_change_nothing():
    expected, turn = scores(), rotation(4)
    for change in (lambda x: x @ turn, lambda x: x + 100, lambda x: x / 1000):
        for (k, *found), (other, *same) in zip(scores(change), expected, strict=True):
            assert k == other
            assert found == pytest.approx(same, abs=0.003)


def test_truncated_accuracy_takes_bfloat16():
    found = scores(lambda x: torch.from_numpy(x).bfloat16())
    assert found[-1][1] > 0.95


def test_beyond_the_rank_of_train_nothing_is_left_to_cut():
    train, test = normal(10, 30), normal(5, 30, seed=1)
    found = list(truncated_accuracies(train, np.arange(10) % 2, test, np.arange(5) % 2))
    assert [k for k, _, _ in found] == [1, 2, 4, 8, 16, 30]
    assert found[-1][1:] == found[-2][1:]
    assert all(0 <= value <= 1 for _, *values in found for value in values)


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_a_student_that_does_not_vary_gives_the_commonest_class(value):
    flat, labels = np.full((40, 3), value), np.repeat([2, 7], [30, 10])
    found = list(truncated_accuracies(flat, labels, flat[:8], np.repeat([7, 2], 4)))
    assert found == [(1, 0.5, 0.5), (2, 0.5, 0.5), (3, 0.5, 0.5)]
    assert next(truncated_accuracies(flat, labels, flat, labels))[1:] == (0.75, 0.75)


def test_truncated_accuracy_refuses_bad_input():
    x, labels = normal(20, 3), np.arange(20) % 2
    with pytest.raises(ValueError, match="train labels"):
        next(truncated_accuracies(x, 0 * labels, x, labels))
    with pytest.raises(ValueError, match="got NaN or infinity"):
        next(truncated_accuracies(x * np.nan, labels, x, labels))
