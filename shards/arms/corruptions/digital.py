"""Contrast, elastic deformation, pixelation, JPEG."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from shards.arms.corruptions.base import Corruption
from shards.arms.corruptions.exact import (
    ONE,
    bilinear,
    gaussian,
    mirror,
    rounded,
    symmetric,
    to_levels,
)
from shards.support.resample import coefficients
from shards.support.rng import uniform_fixed


@dataclass(frozen=True)
class Contrast(Corruption):
    """mean + c (x - mean), with the mean of each channel of the image."""

    constants = (0.75, 0.5, 0.4, 0.3, 0.15)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        images, keep = images_BCHW.double(), round(self.constant * ONE)
        count = images.shape[2] * images.shape[3]
        total = images.sum(dim=(2, 3), keepdim=True)
        return to_levels(images * (keep * count) + total * (ONE - keep), count * ONE)


@functools.lru_cache(maxsize=64)
def _smoothing(side: int, sigma: float) -> torch.Tensor:
    """A Gaussian with reflected edges as a matrix of integers in 2^-14, float64 (side, side)."""
    kernel = gaussian(sigma, int(3 * sigma + 0.5)) // 4
    reach = len(kernel) // 2
    matrix = torch.zeros(side, side, dtype=torch.float64)
    rows = torch.arange(side)
    for step, weight in zip(range(-reach, reach + 1), kernel.tolist(), strict=True):
        matrix[rows, symmetric(rows + step, side)] += weight
    return matrix


@dataclass(frozen=True)
class ElasticTransform(Corruption):
    """A random affine map, then smooth random displacements, each with bilinear sampling.

    Constants (a, b, c) are multiples of the shorter side. The affine map moves three points around
    the centre by up to c (mirrored edges). Displacements are uniform in [-1, 1], smoothed by a
    Gaussian of sigma b and multiplied by a (reflected edges). Positions are rounded to 1/256 pixel.
    """

    columns: ClassVar[tuple[str, ...]] = ("affine_seed", "down_seed", "right_seed")
    constants = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )

    def _affine(self, seeds_B: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Matrices from an output's (column, row, 1) to its source position, int64 (B, 2, 3).

        In units of 2^-16 pixels.
        """
        side = min(height, width)
        reach = max(1, side // 3)
        around = np.array([[1, 1], [1, -1], [-1, -1]]) * reach
        old_32 = around + np.array([width // 2, height // 2])
        drawn_B6 = (2 * uniform_fixed(seeds_B.cpu(), 6) - 65535).numpy() / 65536
        new_B32 = old_32 + drawn_B6.reshape(-1, 3, 2) * (self.constant[2] * side)
        # Three pairs of points define the map: one point goes to its partner, and the two edge
        # vectors that meet in it to their partners, which gives a 2 x 2 system for the linear part.
        edge_B22 = np.stack([new_B32[:, 0] - new_B32[:, 1], new_B32[:, 1] - new_B32[:, 2]], 2)
        (a, b), (c, d) = edge_B22.transpose(1, 2, 0)
        inverse_B22 = np.array([[d, -b], [-c, a]]).transpose(2, 0, 1)
        inverse_B22 = inverse_B22 / (a * d - b * c)[:, None, None]
        old_22 = np.stack([old_32[0] - old_32[1], old_32[1] - old_32[2]], 1)
        linear_B22 = (old_22[None, :, :, None] * inverse_B22[:, None]).sum(axis=2)
        shift_B2 = old_32[1] - (linear_B22 * new_B32[:, None, 1]).sum(axis=2)
        whole_B23 = np.concatenate([linear_B22, shift_B2[:, :, None]], axis=2)
        return torch.from_numpy(np.round(whole_B23 * 65536).astype(np.int64))

    def _field(self, seeds_B: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Displacements in 2^-8 pixels, int64 (B, H, W)."""
        amount, sigma, _ = (constant * min(height, width) for constant in self.constant)
        drawn = (2 * uniform_fixed(seeds_B.contiguous(), height * width) - 65535).double()
        device = seeds_B.device
        down, across = (_smoothing(size, sigma).to(device) for size in (height, width))
        smooth = down @ drawn.view(-1, height, width) @ across.T  # in 2^-44
        return rounded(rounded(smooth, 1 << 28) * round(amount * 256), 1 << 16).long()

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        device = images_BCHW.device
        rows = torch.arange(height, device=device)[:, None].expand(height, width)
        cols = torch.arange(width, device=device).expand(height, width)
        matrix = self._affine(params_BC[:, 0], height, width).to(device)[..., None, None]
        across, down = (
            (matrix[:, i, 0] * cols + matrix[:, i, 1] * rows + matrix[:, i, 2] + 128) >> 8
            for i in (0, 1)
        )
        image = bilinear(images_BCHW.double(), down, across, mirror)
        down = rows * 256 + self._field(params_BC[:, 1], height, width)
        across = cols * 256 + self._field(params_BC[:, 2], height, width)
        return to_levels(bilinear(image, down, across, symmetric), 1 << 32)


def _box(levels_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize with Pillow's box filter, bit for bit: rows, rounding, then columns; float64."""
    half = 0.5
    if levels_BCHW.shape[3] != width:
        across = coefficients(levels_BCHW.shape[3], width, "box").to(levels_BCHW.device)
        levels_BCHW = (levels_BCHW @ across.T + half).clamp_(0, 255).floor_()
    if levels_BCHW.shape[2] != height:
        down = coefficients(levels_BCHW.shape[2], height, "box").to(levels_BCHW.device)
        levels_BCHW = (down @ levels_BCHW + half).clamp_(0, 255).floor_()
    return levels_BCHW


@dataclass(frozen=True)
class Pixelate(Corruption):
    """Downsampling to c times each side and upsampling again, both with Pillow's box filter."""

    constants = (0.95, 0.9, 0.85, 0.75, 0.65)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        small = [max(1, int(side * self.constant)) for side in (height, width)]
        out = _box(_box(images_BCHW.double(), *small), height, width)
        return out.to(torch.uint8)


@dataclass(frozen=True)
class Jpeg(Corruption):
    """JPEG compression at quality c by Pillow, with its default chroma subsampling.

    It runs on the CPU, one image at a time. Its bits depend on the libjpeg that Pillow was built
    with, unlike those of all other corruptions.
    """

    constants = (80, 65, 58, 50, 40)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        from PIL import Image

        out = np.empty((len(images_BCHW), *images_BCHW.shape[2:], 3), dtype=np.uint8)
        for i, image_HWC in enumerate(images_BCHW.permute(0, 2, 3, 1).cpu().numpy()):
            buffer = io.BytesIO()
            Image.fromarray(image_HWC).save(buffer, "JPEG", quality=self.constant)
            out[i] = np.asarray(Image.open(buffer))
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(images_BCHW.device)
