"""Operations that arms are made of: what they draw, and what they do to a batch.

Draws are integers from a counter, made on the CPU and stored. `pixels` applies them to uint8
images with integer arithmetic (or float64 sums that are exact), so every device gives the same
bits; `normalised` is what happens after a network's normalisation.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from shards.support.resample import coefficients
from shards.support.rng import NORMAL_BITS, normal_fixed

Viewer = Literal["student", "teacher"]
SIGMA_BITS = 8  # fractional bits of a noise strength in uint8 levels: products stay in int32
FACTOR_BITS = 12  # fractional bits of colour factors
TURN = 1024  # steps of hue in a whole turn
RATIOS = 4096  # aspect ratios that a random resized crop chooses from


@dataclass(frozen=True)
class Op:
    """One operation: its stored columns, and what they do to a batch."""

    columns: ClassVar[tuple[str, ...]] = ()

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        """Uniform 64-bit words (..., columns) -> int64 parameters; the words, if nothing else."""
        return words_NC.view(np.int64)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        """uint8 -> uint8, same shape."""
        return images_BCHW

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        """Float after normalisation -> float, same shape.

        `nyquist`: the pictures' own, in cycles per pixel of the input.
        """
        return images_BCHW


def below(words: np.ndarray, bound: int) -> np.ndarray:
    """Uniform integers in [0, bound) from the top 32 bits of each word (bias < bound / 2^32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class RandomCrop(Op):
    """Pad by `pad` black pixels on every side, crop the old size at (top, left) in [0, 2 pad]."""

    pad: int = 4
    columns: ClassVar[tuple[str, ...]] = ("top", "left")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return below(words_NC, 2 * self.pad + 1)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = images_BCHW.shape
        padded = torch.nn.functional.pad(images_BCHW, [self.pad] * 4)
        device = images_BCHW.device
        rows_BH = params_BC[:, 0, None] + torch.arange(height, device=device)
        cols_BW = params_BC[:, 1, None] + torch.arange(width, device=device)
        index_B = torch.arange(batch, device=device)[:, None, None]
        # Advanced indices around a slice put the channel last: (B, H, W, C).
        return padded[index_B, :, rows_BH[:, :, None], cols_BW[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class HorizontalFlip(Op):
    """Mirror left to right where `flip` is 1 (probability 1/2)."""

    columns: ClassVar[tuple[str, ...]] = ("flip",)

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return below(words_NC, 2)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        flip_B = params_BC[:, 0].bool()
        return torch.where(flip_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)


@dataclass(frozen=True)
class PixelNoise(Op):
    """x + sigma * N(0, 1) in [0, 1] pixels, rounded to uint8 levels and clipped (CIFAR-10-C)."""

    sigma: float = 0.1
    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        normal = normal_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        normal = normal.view(images_BCHW.shape)
        scale = round(self.sigma * 255 * (1 << SIGMA_BITS))
        bits = SIGMA_BITS + NORMAL_BITS
        shift = (normal * scale + (1 << (bits - 1))) >> bits
        return (images_BCHW + shift).clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class NormalisedNoise(Op):
    """x + sigma * N(0, 1) AFTER normalisation by mean and std, unclipped (the paper's noise).

    The variates are the fixed table's; the sum is in floating point.
    """

    sigma: float = 0.1
    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        normal = normal_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        normal = normal.view(images_BCHW.shape)
        return images_BCHW + normal.to(images_BCHW.dtype) * (self.sigma / (1 << NORMAL_BITS))


def _rounded(fixed: torch.Tensor, bits: int) -> torch.Tensor:
    """Fixed point with `bits` fractional bits -> the nearest uint8 level, clipped."""
    return ((fixed + (1 << (bits - 1))) >> bits).clamp(0, 255)


def luma(levels_BCHW: torch.Tensor) -> torch.Tensor:
    """(299 R + 587 G + 114 B) / 1000 in Pillow's fixed point, (B, 1, H, W)."""
    red, green, blue = levels_BCHW.split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


@functools.cache
def _turns() -> torch.Tensor:
    """cos and sin of every step of hue in fixed point, int32 (TURN, 2)."""
    angles = [2 * math.pi * step / TURN for step in range(TURN)]
    pairs = [(round(math.cos(a) * 4096), round(math.sin(a) * 4096)) for a in angles]
    return torch.tensor(pairs, dtype=torch.int32)


# W3C Filter Effects, hue-rotate: constant + cos + sin parts of the matrix, in thousandths.
HUE = torch.tensor(
    [
        [[213, 715, 72], [213, 715, 72], [213, 715, 72]],
        [[787, -715, -72], [-213, 285, -72], [-213, -715, 928]],
        [[-213, -715, 928], [143, 140, -283], [-787, 715, 72]],
    ],
    dtype=torch.int32,
)


@dataclass(frozen=True)
class ColorJitter(Op):
    """Brightness, contrast, saturation by factors in [1 - s, 1 + s]; hue by [-s/4, s/4] of a turn.

    x <- b x; x <- mean(luma) + c (x - mean(luma)); x <- luma + s (x - luma); then the chroma of x
    turned by the hue, each rounded to uint8 levels and clipped. RGB only. torchvision's
    ColorJitter(s, s, s, s / 4) with four differences: always in this order, hue is a rotation
    that keeps luma (W3C hue-rotate) instead of a detour over HSV, all of it is fixed point (12
    bits; hue in 1/1024 of a turn), and levels are rounded where torchvision cuts fractions off.
    """

    strength: float = 0.4
    columns: ClassVar[tuple[str, ...]] = ("brightness", "contrast", "saturation", "hue")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        factor = round(self.strength * (1 << FACTOR_BITS))
        hue = round(self.strength / 4 * TURN)
        factors_N3 = below(words_NC[:, :, :3], 2 * factor + 1) + (1 << FACTOR_BITS) - factor
        hue_N1 = below(words_NC[:, :, 3:], 2 * hue + 1) - hue
        return np.concatenate([factors_N3, hue_N1], axis=-1)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        levels = images_BCHW.int()
        factors = params_BC.int()[:, :, None, None, None]
        levels = _rounded(levels * factors[:, 0], FACTOR_BITS)
        count = levels.shape[2] * levels.shape[3]
        mean = (luma(levels).sum(dim=(1, 2, 3), keepdim=True) + count // 2) // max(count, 1)
        for centre, factor in ((mean.int(), factors[:, 1]), (None, factors[:, 2])):
            grey = luma(levels) if centre is None else centre
            levels = _rounded((grey << FACTOR_BITS) + (levels - grey) * factor, FACTOR_BITS)
        cos_sin_B2 = _turns().to(levels.device)[params_BC[:, 3] % TURN]
        ones_B = torch.full_like(cos_sin_B2[:, :1], 1 << FACTOR_BITS)
        parts_B3 = torch.cat([ones_B, cos_sin_B2], dim=1)
        summed = (parts_B3[:, :, None, None] * HUE.to(levels.device)).sum(dim=1, dtype=torch.int32)
        matrix_B33 = torch.div(summed + 500, 1000, rounding_mode="floor")
        rows = [
            (matrix_B33[:, c, :, None, None] * levels).sum(dim=1, dtype=torch.int32)
            for c in range(3)
        ]
        return _rounded(torch.stack(rows, dim=1), FACTOR_BITS).to(torch.uint8)


@functools.cache
def _ratios() -> torch.Tensor:
    """Aspect ratios log-uniform in [3/4, 4/3] with 16 fractional bits; entry -1-i inverts i."""
    exponents = [(2 * i + 1) / RATIOS - 1 for i in range(RATIOS)]
    return torch.tensor([round((4 / 3) ** t * 65536) for t in exponents])


@dataclass(frozen=True)
class RandomResizedCrop(Op):
    """A crop of area in [`least`, 1] and aspect in [3/4, 4/3], resized to the image's own size.

    Uniform in area, log-uniform in aspect, uniform in position, as torchvision's; where a crop of
    that area would be wider or higher than the image, the nearest aspect that fits is taken
    (torchvision draws both again). Sides are rounded to whole pixels. Pillow's bilinear filter.
    """

    least: float = 0.25
    columns: ClassVar[tuple[str, ...]] = ("area", "aspect", "top", "left")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return (words_NC >> np.uint64(32)).astype(np.int64)  # fractions of 2^32

    def boxes(self, params_BC: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Stored fractions -> (top, left, height, width) in pixels, int64 (B, 4).

        height = sqrt(a H W / r), width = sqrt(a H W r); or H and a W; or a H and W. Each step in
        float64 is exact or rounded as IEEE 754 says, so devices agree.
        """
        least = round(self.least * 65536)
        area_B = least + ((65537 - least) * params_BC[:, 0] >> 32)
        index_B = RATIOS * params_BC[:, 1] >> 32
        ratios = _ratios().to(params_BC.device)
        high_B, wide_B = (
            ((height * width * area_B * ratio_B).double() / (1 << 32)).sqrt()
            for ratio_B in (ratios[RATIOS - 1 - index_B], ratios[index_B])
        )
        share_B = area_B.double() / 65536
        rows_B = torch.where(wide_B > width, share_B * height, high_B)
        cols_B = torch.where(high_B > height, share_B * width, wide_B)
        rows_B = (rows_B + 0.5).long().clamp(1, height)
        cols_B = (cols_B + 0.5).long().clamp(1, width)
        top_B = params_BC[:, 2] * (height - rows_B + 1) >> 32
        left_B = params_BC[:, 3] * (width - cols_B + 1) >> 32
        return torch.stack([top_B, left_B, rows_B, cols_B], dim=1)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = images_BCHW.shape
        boxes_B4 = self.boxes(params_BC, height, width).cpu()
        down_BHH = _weights(boxes_B4[:, 0], boxes_B4[:, 2], height).to(images_BCHW.device)
        across_BWW = _weights(boxes_B4[:, 1], boxes_B4[:, 3], width).to(images_BCHW.device)
        rows = images_BCHW.double().reshape(batch, channels * height, width)
        rows = (rows @ across_BWW.transpose(1, 2) + 0.5).clamp_(0, 255).floor_()
        wide = rows.view(batch, channels, height, width)
        out = down_BHH[:, None] @ wide
        return out.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _weights(starts_B: torch.Tensor, lengths_B: torch.Tensor, side: int) -> torch.Tensor:
    """Matrices that resample pixels `start` to `start + length` to `side`: (B, side, side)."""
    out = torch.zeros(len(starts_B), side, side, dtype=torch.float64)
    for i, (start, length) in enumerate(zip(starts_B.tolist(), lengths_B.tolist(), strict=True)):
        out[i, :, start : start + length] = coefficients(length, side, "bilinear")
    return out
