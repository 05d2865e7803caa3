"""Noise that depends on the pixel's value or replaces it: shot noise and impulse noise."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from shards.arms.corruptions.base import Corruption
from shards.support.rng import uniform_fixed


@functools.cache
def _poisson(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Tables for sampling Poisson counts by inversion, for every level at once.

    Level l has mean rate * l / 255. Returns (bounds, levels). bounds, int64 (256 * K,), ascending:
    entry l * K + k is 2^32 (l + P(count <= k)), and the last entry of each level 2^32 (l + 1), so
    one binary search finds the count of a (level, uniform number). levels, uint8 (K,): the level
    255 count / rate of each count, rounded and clipped.
    """
    from scipy.stats import poisson

    most = int(poisson.isf(2.0**-19, rate)) + 1
    counts_K = np.arange(most + 1)
    means_L1 = rate * np.arange(256)[:, None] / 255
    below_LK = np.round(poisson.cdf(counts_K, means_L1) * 2.0**32).astype(np.int64)
    below_LK[:, -1] = 1 << 32
    bounds = (below_LK + (np.arange(256)[:, None] << 32)).ravel()
    return bounds, np.minimum((510 * counts_K + rate) // (2 * rate), 255).astype(np.uint8)


@functools.lru_cache(maxsize=16)
def _poisson_on(rate: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    bounds, levels = _poisson(rate)
    return torch.from_numpy(bounds).to(device), torch.from_numpy(levels).to(device)


@dataclass(frozen=True)
class ShotNoise(Corruption):
    """Shot noise Poisson(c x) / c, x in [0, 1], drawn from 65,536 equally likely quantiles."""

    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)
    constants = (500, 250, 100, 75, 50)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        bounds, levels = _poisson_on(self.constant, images_BCHW.device)
        share = uniform_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        # The middle of each of the 65,536 intervals, in units of 2^-32.
        share = (2 * share + 1 << 15).view(images_BCHW.shape)
        level = images_BCHW.long()
        count = torch.searchsorted(bounds, (level << 32) + share, right=True)
        return levels[count - level * len(levels)]


@dataclass(frozen=True)
class ImpulseNoise(Corruption):
    """Salt-and-pepper noise: a share c of all values becomes 0 or 255 with equal probability.

    Each channel of a pixel is replaced independently.
    """

    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)
    constants = (0.01, 0.02, 0.03, 0.05, 0.07)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        half = round(self.constant / 2 * 65536)
        share = uniform_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        share = share.view(images_BCHW.shape)
        out = images_BCHW.masked_fill(share < half, 0)
        return out.masked_fill_(share >= 65536 - half, 255)
