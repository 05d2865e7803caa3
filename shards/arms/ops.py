"""Operations that arms are composed of: crops, flips, noise, colour jitter.

An operation draws integer parameters on the CPU (`draw`), which are stored, and applies stored
parameters to a batch: `pixels` to uint8 images, in integer arithmetic or exact float64 sums, so
that results are bit-identical on every device; `normalised` to images that were already normalised
by mean and standard deviation, in floating point.
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
    """Base class of operations: draws nothing and changes nothing.

    `columns`: names of the parameters that it draws for each view.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        """Parameters, int64 (..., columns), from as many uniform random 64-bit words.

        By default the words themselves, as seeds of further random numbers.
        """
        return words_NC.view(np.int64)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        """Apply parameters (B, columns) to uint8 images (B, C, H, W): uint8, same shape."""
        return images_BCHW

    def normalised(
        self, images_BCHW: torch.Tensor, params_BC: torch.Tensor, nyquist: float = 0.5
    ) -> torch.Tensor:
        """Apply parameters (B, columns) to normalised float images: float, same shape.

        `nyquist`: see `shards.arms.base.Arm.normalised`.
        """
        return images_BCHW

    def check_input(self, side: int, nyquist: float) -> None:
        """Raises: ValueError where inputs of `side` x `side` pixels are too small for it."""


def below(words: np.ndarray, bound: int) -> np.ndarray:
    """Uniform integers in [0, bound), int64, from the top 32 bits of each uint64 word.

    Multiplying and shifting is faster than rejection sampling, with a bias below bound / 2^32.
    """
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class RandomCrop(Op):
    """Pad by `pad` black pixels on every side, then crop the original size at a random offset.

    `top` and `left` are uniform in [0, 2 pad].
    """

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
    """Mirror left to right where `flip` is 1, with probability 1/2."""

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
        # Adding half a unit before the shift rounds to the nearest level.
        shift = (normal * scale + (1 << (bits - 1))) >> bits
        return (images_BCHW + shift).clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class NormalisedNoise(Op):
    """x + sigma * N(0, 1) AFTER normalisation by mean and std, unclipped (the paper's noise).

    The normal variates are the same integers on every device; the sum is in floating point.
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
    """The nearest level in [0, 255] of a fixed-point number with `bits` fractional bits."""
    return ((fixed + (1 << (bits - 1))) >> bits).clamp(0, 255)


def luma(levels_BCHW: torch.Tensor) -> torch.Tensor:
    """Luma (299 R + 587 G + 114 B) / 1000 in Pillow's fixed point: levels, (B, 1, H, W)."""
    red, green, blue = levels_BCHW.split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


@functools.cache
def _turns() -> torch.Tensor:
    """Cosine and sine of every step of hue with 12 fractional bits, int32 (TURN, 2)."""
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
    """Random brightness, contrast and saturation factors and a random hue rotation. RGB only.

    With strength s, the factors b, c and f are uniform in [1 - s, 1 + s] and the hue is uniform in
    [-s / 4, s / 4] of a full turn. Applied in this order, each rounded to uint8 levels and clipped:

        x <- b x
        x <- mean(luma) + c (x - mean(luma))
        x <- luma + f (x - luma)
        x <- x with its chroma rotated by the hue

    This is torchvision's ColorJitter(s, s, s, s / 4) with four differences: the order is fixed; hue
    is a rotation that preserves luma (W3C hue-rotate) and not a change of H in HSV; arithmetic is
    fixed point with 12 fractional bits (hue in 1/1024 of a turn); and levels are rounded, where
    torchvision truncates.
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
    """Aspect ratios, log-uniform in [3/4, 4/3], 16 fractional bits; entry -1 - i is 1 / entry i."""
    exponents = [(2 * i + 1) / RATIOS - 1 for i in range(RATIOS)]
    return torch.tensor([round((4 / 3) ** t * 65536) for t in exponents])


@dataclass(frozen=True)
class RandomResizedCrop(Op):
    """A random crop, resized to the size of the image with Pillow's bilinear filter.

    Its area is uniform in [`least`, 1] of the image's, its aspect ratio log-uniform in [3/4, 4/3],
    its position uniform, sides rounded to whole pixels. torchvision's RandomResizedCrop draws area
    and aspect from the same distributions, but draws BOTH again, up to ten times, where the crop
    would reach over the edge of the image; so its areas are uniform before that rejection only,
    and large ones are rarer. Here the area is kept, and the nearest aspect that fits takes the
    place of the one drawn: redrawing would need an unknown number of random parameters a view.

    Crops that fit with every aspect (below 3/4 of a square image) are distributed alike. Larger
    ones are not: mean shares of a square image's area, of 100,000 draws each, are

        least area                  0.08   0.25   0.5
        torchvision, 32 pixels     0.490  0.576  0.704
        torchvision, 224 pixels    0.480  0.566  0.694
        here, any size             0.540  0.625  0.750

    so for `least` 0.25 a third of the crops has over 3/4 of the area, not a fifth, and of these
    55 % span the image in one direction, not 7 % (224 pixels). Images are augmented somewhat less.
    """

    least: float = 0.25
    columns: ClassVar[tuple[str, ...]] = ("area", "aspect", "top", "left")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return (words_NC >> np.uint64(32)).astype(np.int64)  # fractions of 2^32

    def boxes(self, params_BC: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(top, left, height, width) of the crops in pixels, int64 (B, 4).

        With area a and aspect r: height = sqrt(a H W / r), width = sqrt(a H W r); where one of them
        exceeds the image, H and a W, or a H and W. Each step in float64 is exact or correctly
        rounded by IEEE 754, so all devices agree.
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
    """Matrices that resample pixels [start, start + length) to `side`: float64 (B, side, side)."""
    out = torch.zeros(len(starts_B), side, side, dtype=torch.float64)
    for i, (start, length) in enumerate(zip(starts_B.tolist(), lengths_B.tolist(), strict=True)):
        out[i, :, start : start + length] = coefficients(length, side, "bilinear")
    return out
