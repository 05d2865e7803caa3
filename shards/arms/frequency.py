"""Noise and filters by spatial frequency, after normalisation, at the network's resolution.

A frequency (u, v) has the radius r = sqrt(u^2 + v^2) in cycles per pixel of the input: 0 is the
mean, 0.5 the highest along an axis, sqrt(0.5) the corner. `nyquist` is the highest frequency along
an axis that the original images can contain: 0.5 where the network sees them at their original
resolution, 0.5 * 32 / 224 where 32 pixels were enlarged to 224. Enlarged images contain nothing
above it, except what leaks through the resampling filter and diagonals up to sqrt(2) times it.

Random parameters are stored integers; Fourier transforms are in float64.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from shards.arms.ops import Op
from shards.support.rng import NORMAL_BITS, normal_fixed

BANDS = 8
CORNER = math.sqrt(0.5)


@functools.lru_cache(maxsize=32)
def radii(height: int, width: int) -> torch.Tensor:
    """r of each coefficient of `torch.fft.rfft2`, float64 (H, W // 2 + 1), cycles per pixel."""
    down = torch.fft.fftfreq(height, dtype=torch.float64)
    across = torch.fft.rfftfreq(width, dtype=torch.float64)
    return (down[:, None] ** 2 + across**2).sqrt()


def band_edges(nyquist: float) -> list[float]:
    """Nine radii: bands 1-4 split [0, nyquist) evenly, bands 5-8 split [nyquist, corner].

    Band b contains edges[b - 1] <= r < edges[b]; the last band includes the corner, so its upper
    edge is infinite. At the images' original resolution (nyquist 0.5) bands 5-8 are the diagonals
    that a square grid has beyond 0.5.
    """
    half = BANDS // 2
    lower = [nyquist * i / half for i in range(half)]
    return lower + [nyquist + (CORNER - nyquist) * i / half for i in range(half)] + [math.inf]


def band_mask(height: int, width: int, band: int, nyquist: float) -> torch.Tensor:
    """Which coefficients of `rfft2` are in band 1 to 8: bool (H, W // 2 + 1).

    Raises: ValueError where the band is empty at this resolution.
    """
    edges = band_edges(nyquist)
    r = radii(height, width)
    mask = (r >= edges[band - 1]) & (r < edges[band])
    if not mask.any():
        raise ValueError(
            f"band_noise:{band}: an input of {height}x{width} pixels has no frequency in "
            f"[{edges[band - 1]:.4f}, {edges[band]:.4f}) cycles per pixel; choose another band"
        )
    return mask


def _filtered(x_BCHW: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The image with only the `rfft2` coefficients in `mask` kept, float64, same shape."""
    found = torch.fft.rfft2(x_BCHW.double()) * mask.to(x_BCHW.device)
    return torch.fft.irfft2(found, s=x_BCHW.shape[-2:])


@dataclass(frozen=True)
class BandNoise(Op):
    """Gaussian noise limited to one frequency band, with equal energy in every image and band.

        x + sigma n / sqrt(mean n^2)

    n is white noise of which only the band's frequencies are kept; the mean is over the image's
    pixels and channels. Dividing by it makes bands of different widths comparable.
    """

    band: int = 1
    sigma: float = 0.1
    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        mask = band_mask(height, width, self.band, nyquist)
        normal = normal_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        noise = _filtered(normal.view(images_BCHW.shape) / (1 << NORMAL_BITS), mask)
        energy = noise.square().mean(dim=(1, 2, 3), keepdim=True)
        noise *= self.sigma / energy.sqrt()
        return images_BCHW + noise.to(images_BCHW.dtype)

    def check_input(self, side: int, nyquist: float) -> None:
        _ = band_mask(side, side, self.band, nyquist)


@dataclass(frozen=True)
class Pass(Op):
    """Low-pass or high-pass filter at `cutoff` times the Nyquist frequency of the images.

    `low` keeps frequencies below the cutoff, `high` the others; the edge is sharp, so the two
    outputs sum to the image. `high` removes the mean, unless the cutoff is 0.
    """

    kind: Literal["low", "high"] = "low"
    cutoff: float = 0.5

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        below = radii(height, width) < self.cutoff * nyquist
        mask = below if self.kind == "low" else ~below
        return _filtered(images_BCHW, mask).to(images_BCHW.dtype)


@functools.lru_cache(maxsize=512)
def basis(height: int, width: int, down: int, across: int) -> torch.Tensor:
    """cos 2 pi (down y / H + across x / W) with mean square 1, float32 (H, W)."""
    turns = np.arange(height)[:, None] * (down / height) + np.arange(width) * (across / width)
    wave = np.cos(2 * np.pi * turns)
    return torch.from_numpy((wave / np.sqrt((wave**2).mean())).astype(np.float32))


@dataclass(frozen=True)
class FourierNoise(Op):
    """x + s sigma U in each channel: U one real Fourier basis image, s a random sign.

    `down` and `across` are the wave's vertical and horizontal frequency as fractions of the Nyquist
    frequency of the images, rounded to whole cycles over the input; U has mean square 1. Source:
    Yin et al., "A Fourier perspective on model robustness", NeurIPS 2019.
    """

    down: float = 0.5
    across: float = 0.5
    sigma: float = 0.5
    columns: ClassVar[tuple[str, ...]] = ("sign_seed",)

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        channels, height, width = images_BCHW.shape[1:]
        down, across = round(self.down * nyquist * height), round(self.across * nyquist * width)
        wave = basis(height, width, down, across).to(images_BCHW.device)
        sign = normal_fixed(params_BC[:, 0], channels).sign().view(-1, channels, 1, 1)
        return images_BCHW + (sign * self.sigma).to(images_BCHW.dtype) * wave

    def check_input(self, side: int, nyquist: float) -> None:
        # A wave above the highest frequency of the grid has the values of one below it.
        for share in (self.down, self.across):
            if abs(round(share * nyquist * side)) > round(side / 2):
                raise ValueError(
                    f"fourier:{self.down:g}:{self.across:g}: an input of {side}x{side} pixels has "
                    f"no wave of {share:g} times the pictures' Nyquist frequency; choose at most "
                    f"{0.5 / nyquist:g}"
                )
