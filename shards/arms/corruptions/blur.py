"""Blurs: defocus, frosted glass, motion, zoom."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from shards.arms.corruptions.base import Corruption
from shards.arms.corruptions.exact import (
    ONE,
    Taps,
    correlate,
    gaussian,
    mirror,
    nearest,
    scale_of,
    separable,
    sum_of_zooms,
    to_levels,
    weights,
)
from shards.arms.ops import below
from shards.support.rng import uniform_fixed

ANGLES = 4096  # directions that a motion blur is drawn from


@functools.lru_cache(maxsize=64)
def _disk(radius: float, softness: float) -> Taps:
    """A disk of radius `radius`, smoothed by a 3 x 3 Gaussian (5 x 5 above radius 8)."""
    # Most processes draw no blur, and SciPy's images take a third of a second to import.
    from scipy.ndimage import correlate1d

    reach = max(8, math.floor(radius))
    at = np.arange(-reach, reach + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(np.float64)
    half = 1 if radius <= 8 else 2
    soft = np.exp(-0.5 * (np.arange(-half, half + 1) / softness) ** 2)
    for axis in (0, 1):
        disk = correlate1d(disk, soft / soft.sum(), axis=axis, mode="mirror")
    fixed = weights(disk)
    return [(i - reach, j - reach, int(fixed[i, j])) for i, j in np.argwhere(fixed).tolist()]


@dataclass(frozen=True)
class DefocusBlur(Corruption):
    """Convolution with a smoothed disk; constants are (radius, softness) in pixels.

    The softness anti-aliases the disk's edge, so unlike the radius it does not grow with the image.
    """

    constants = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        radius, softness = self.constant
        taps = _disk(radius * scale_of(*images_BCHW.shape[-2:]), softness)
        return to_levels(correlate(images_BCHW, taps, mirror), ONE)


@dataclass(frozen=True)
class GlassBlur(Corruption):
    """A Gaussian blur, then `rounds` of random local pixel displacements, then the blur again.

    Constants are (sigma, reach, rounds). In each round a pixel is replaced by the one at a random
    offset, uniform in [-reach, reach) by row and column. Pixels closer than reach + 1 to the upper
    or left edge, or closer than reach to the lower or right edge, stay.

    The published script intends to swap pixels one after the other, but because NumPy slices are
    views it copies them; and as its offsets at 32 pixels are -1 and 0, it only copies pixels that
    it has not changed yet. Displacing all pixels at once is therefore what it really computes.
    """

    columns: ClassVar[tuple[str, ...]] = ("glass_seed",)
    constants = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        sigma, reach, rounds = self.constant
        batch, _, height, width = images_BCHW.shape
        scale = scale_of(height, width)
        reach = round(reach * scale)
        kernel = gaussian(sigma * scale, int(4 * sigma * scale + 0.5))
        draws = uniform_fixed(params_BC[:, 0], rounds * 2 * height * width)
        offsets = draws.view(batch, rounds, 2, height, width) * (2 * reach) >> 16
        offsets -= reach
        device = images_BCHW.device
        rows, cols = torch.arange(height, device=device), torch.arange(width, device=device)
        inside = _inside(rows, reach, height)[:, None] & _inside(cols, reach, width)
        offsets *= inside
        out = to_levels(separable(images_BCHW, kernel, nearest), ONE * ONE)
        index_B = torch.arange(batch, device=device)[:, None, None]
        for step in range(rounds):
            from_rows = rows[:, None] + offsets[:, step, 0]
            from_cols = cols + offsets[:, step, 1]
            out = out[index_B, :, from_rows, from_cols].permute(0, 3, 1, 2)
        return to_levels(separable(out, kernel, nearest), ONE * ONE)


def _inside(at: torch.Tensor, reach: int, size: int) -> torch.Tensor:
    return (at > reach) & (at <= size - reach)


@functools.lru_cache(maxsize=64)
def _motion(radius: float, sigma: float, low: float, high: float) -> tuple[list[int], torch.Tensor]:
    """A motion blur's K weights, and the (row, column) offset of each, int64 (ANGLES, K, 2).

    As in ImageMagick: half a Gaussian over 2 ceil(radius) + 1 steps of one pixel along the angle.
    The angles divide [low, high] degrees evenly.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    fixed = weights(np.exp(-(steps**2) / (2 * sigma**2)))
    steps = steps[: np.flatnonzero(fixed)[-1] + 1]
    turn = np.deg2rad(low + (np.arange(ANGLES) + 0.5) / ANGLES * (high - low))[:, None]
    at = np.stack([np.ceil(steps * np.sin(turn) - 0.5), np.ceil(steps * np.cos(turn) - 0.5)], 2)
    return fixed[: len(steps)].tolist(), torch.from_numpy(at.astype(np.int64))


def moved(
    images_BCHW: torch.Tensor,
    angle_B: torch.Tensor,
    blur: tuple[float, float],
    turn: tuple[float, float],
) -> torch.Tensor:
    """Motion blur of uint8 images (B, C, H, W); returns uint8 of the same shape.

    blur: (radius, sigma) in pixels. turn: (lowest, highest) angle in degrees. angle_B: int64 (B,)
    in [0, ANGLES), the step between the two.
    """
    taps, table = _motion(*blur, *turn)
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    offsets_BK2 = table.to(device)[angle_B]
    index_B = torch.arange(batch, device=device)[:, None, None]
    out = torch.zeros(batch, height, width, images_BCHW.shape[1], dtype=torch.int32, device=device)
    images = images_BCHW.int()
    for step, weight in enumerate(taps):
        rows = torch.arange(height, device=device) + offsets_BK2[:, step, 0, None]
        cols = torch.arange(width, device=device) + offsets_BK2[:, step, 1, None]
        rows, cols = rows.clamp(0, height - 1), cols.clamp(0, width - 1)
        out.add_(images[index_B, :, rows[:, :, None], cols[:, None]], alpha=weight)
    return ((out + ONE // 2) // ONE).permute(0, 3, 1, 2).to(torch.uint8)


@dataclass(frozen=True)
class MotionBlur(Corruption):
    """Blur along a line at -45 to 45 degrees; constants are (radius, sigma) in pixels."""

    columns: ClassVar[tuple[str, ...]] = ("angle",)
    constants = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return below(words_NC, ANGLES)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        scale = scale_of(*images_BCHW.shape[-2:])
        radius, sigma = self.constant
        return moved(images_BCHW, params_BC[:, 0], (radius * scale, sigma * scale), (-45, 45))


@dataclass(frozen=True)
class ZoomBlur(Corruption):
    """The mean of the image and of its zooms by 1, 1.01, ... up to the constant."""

    constants = (1.06, 1.11, 1.16, 1.21, 1.26)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        images = images_BCHW.double()
        zooms = np.arange(1, self.constant, 0.01).tolist()
        total = images * (1 << 24) + sum_of_zooms(images, zooms)
        return to_levels(total, (len(zooms) + 1) << 24)
