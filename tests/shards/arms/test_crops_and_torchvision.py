"""How `random_resized_crop` differs from torchvision's RandomResizedCrop, in figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shards.arms import make_arm
from shards.arms.ops import RandomResizedCrop

COUNT = 100_000  # the standard error of a mean area is below 0.001
# {(least area, side): mean area of (torchvision's crops, ours)}, as the docstring states them.
MEAN_AREA = {
    (0.08, 32): (0.490, 0.540),
    (0.25, 32): (0.576, 0.625),
    (0.5, 32): (0.704, 0.750),
    (0.08, 224): (0.480, 0.540),
    (0.25, 224): (0.566, 0.625),
    (0.5, 224): (0.694, 0.750),
}


def torchvisions(least: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(heights, widths) of square images' crops by torchvision's `get_params`, in straight lines.

    Ten tries, each of an area and an aspect; what does not fit is drawn again, and after ten tries
    the whole image is taken, whose aspect 1 is allowed.
    """
    generator = np.random.default_rng(0)
    high_N, wide_N = np.full(COUNT, side), np.full(COUNT, side)
    waiting_N = np.ones(COUNT, dtype=bool)
    for _ in range(10):
        area_N = side * side * generator.uniform(least, 1, COUNT)
        ratio_N = np.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3), COUNT))
        w_N, h_N = np.rint(np.sqrt(area_N * ratio_N)), np.rint(np.sqrt(area_N / ratio_N))
        fits_N = waiting_N & (w_N > 0) & (w_N <= side) & (h_N > 0) & (h_N <= side)
        high_N[fits_N], wide_N[fits_N] = h_N[fits_N], w_N[fits_N]
        waiting_N &= ~fits_N
    return high_N, wide_N


def ours(least: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    arm = make_arm(f"random_resized_crop:{least}")
    (op,) = arm.ops
    assert isinstance(op, RandomResizedCrop)
    params_NC = torch.from_numpy(arm.draw(0, tuple(map(str, range(COUNT))), 1)[:, 0])
    boxes_N4 = op.boxes(params_NC, side, side).numpy()
    return boxes_N4[:, 2], boxes_N4[:, 3]


@pytest.mark.parametrize(("least", "side"), MEAN_AREA)
def test_mean_areas_are_those_that_the_docstring_says(least: float, side: int) -> None:
    found = [(h * w).mean() / side**2 for h, w in (torchvisions(least, side), ours(least, side))]
    assert found == pytest.approx(MEAN_AREA[least, side], abs=0.003)


def test_the_straight_line_is_torchvisions_own() -> None:
    from torchvision.transforms import RandomResizedCrop as Theirs

    least, side = 0.25, 32
    image = torch.zeros(3, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [Theirs.get_params(image, [least, 1], [3 / 4, 4 / 3]) for _ in range(2000)]
    real_N = np.array([h * w for _, _, h, w in boxes]) / side**2
    line_N = np.multiply(*torchvisions(least, side)) / side**2
    assert real_N.mean() == pytest.approx(line_N.mean(), abs=0.015)
    assert real_N.std() == pytest.approx(line_N.std(), abs=0.01)


def small(heights_N: np.ndarray, widths_N: np.ndarray, side: int) -> np.ndarray:
    """Which crops fit with every allowed aspect: a (4/3) <= 1, with a margin for rounding."""
    return heights_N * widths_N < 0.74 * side**2


def test_crops_that_fit_with_every_aspect_have_one_distribution() -> None:
    least, side = 0.25, 224
    values = []
    for high_N, wide_N in (torchvisions(least, side), ours(least, side)):
        fits_N = small(high_N, wide_N, side)
        area_N = (high_N * wide_N)[fits_N] / side**2
        values.append((area_N, np.log(wide_N / high_N)[fits_N]))
    for theirs_N, ours_N in zip(*values, strict=True):
        spread = theirs_N.std()
        assert ours_N.mean() == pytest.approx(theirs_N.mean(), abs=0.02 * spread)
        assert ours_N.std() == pytest.approx(spread, rel=0.02)


def test_large_crops_are_more_frequent_and_reach_the_edges() -> None:
    """Ours keeps the area that was drawn, so a third of the crops has over 3/4 of the area."""
    least, side = 0.25, 224
    shares, edges = [], []
    for high_N, wide_N in (torchvisions(least, side), ours(least, side)):
        large_N = high_N * wide_N > 0.75 * side**2
        shares.append(large_N.mean())
        edges.append(((high_N == side) | (wide_N == side))[large_N].mean())
    assert shares == pytest.approx([0.20, 0.33], abs=0.01)
    assert edges == pytest.approx([0.07, 0.55], abs=0.02)
