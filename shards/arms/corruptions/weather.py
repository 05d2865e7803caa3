"""Weather and light: snow, frost (with a computed texture), fog, brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from shards.arms.corruptions.base import Corruption
from shards.arms.corruptions.blur import ANGLES, moved
from shards.arms.corruptions.exact import BITS, ONE, rounded, scale_of, sum_of_zooms, to_levels
from shards.arms.ops import below
from shards.support.rng import NORMAL_BITS, normal_fixed, uniform_fixed

LUMA = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 in units of 2^-16


def plasma(seeds_B: torch.Tensor, side: int, decay: float) -> torch.Tensor:
    """Plasma fractals by the diamond-square algorithm: float64 integers (B, S, S) in [0, 2^16].

    S is the smallest power of 2 that is at least `side` (and 2); edges wrap around. Each point is
    the mean of four neighbours plus a uniform random number in [-w^2, w^2], with w = 100 at the
    coarsest scale, divided by `decay` at each finer one. The result is then rescaled to [0, 2^16].
    seeds_B: int64 (B,).
    """
    size = max(2, 1 << (side - 1).bit_length())
    draws = 2 * uniform_fixed(seeds_B, size * size) - 65535
    field = torch.zeros(len(seeds_B), size, size, dtype=torch.float64, device=seeds_B.device)
    used, step, wibble = 0, size, 100.0

    def mean(total: torch.Tensor) -> torch.Tensor:
        """A quarter of the sum of four neighbours, plus the next random numbers."""
        nonlocal used
        count = total.shape[1:].numel()
        noise = draws[:, used : used + count].reshape(total.shape).double()
        used += count
        return (total / 4).floor_() + (noise * round(wibble**2 * 65536) / 65536).floor_()

    while step >= 2:
        half = step // 2
        corner = field[:, ::step, ::step]
        pair = corner + corner.roll(-1, 1)
        field[:, half::step, half::step] = mean(pair + pair.roll(-1, 2))
        middle = field[:, half::step, half::step]
        field[:, ::step, half::step] = mean(
            middle + middle.roll(1, 1) + corner + corner.roll(-1, 2)
        )
        field[:, half::step, ::step] = mean(
            middle + middle.roll(1, 2) + corner + corner.roll(-1, 1)
        )
        step, wibble = half, wibble / decay
    field -= field.amin(dim=(1, 2), keepdim=True)
    top = field.amax(dim=(1, 2), keepdim=True).clamp_min(1)
    return (field * 65536 / top).floor_()


@dataclass(frozen=True)
class Fog(Corruption):
    """(x + c p) max(x) / (max(x) + c), p a plasma fractal in [0, 1] and max(x) over the image.

    Constants are (c, decay of the fractal).
    """

    columns: ClassVar[tuple[str, ...]] = ("fog_seed",)
    constants = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        amount, decay = self.constant
        height, width = images_BCHW.shape[-2:]
        cloud = plasma(params_BC[:, 0], max(height, width), decay)[:, None, :height, :width]
        thick = round(amount * 255 * ONE)
        images = images_BCHW.double()
        top = images.amax(dim=(1, 2, 3), keepdim=True)
        total = (images * (1 << 32) + cloud * thick) * top  # below 2^50
        return to_levels(total, (top * ONE + thick) * ONE)


@dataclass(frozen=True)
class ProceduralFrost(Corruption):
    """a x + b f with a computed texture f. NOT CIFAR-10-C's frost, whose f is a photograph.

    f has bright ridges (1 - |2 p - 1|)^4 of a plasma fractal p with decay 1.8, scaled to levels 64
    to 255 and tinted blue (red x 0.92, green x 0.97). Constants (a, b) are CIFAR-10-C's.
    """

    columns: ClassVar[tuple[str, ...]] = ("frost_seed",)
    constants = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        height, width = images_BCHW.shape[-2:]
        cloud = plasma(params_BC[:, 0], max(height, width), 1.8)[:, None, :height, :width]
        ridge = 65536 - (2 * cloud - 65536).abs()
        ridge = rounded(rounded(ridge * ridge, 65536) ** 2, 65536)
        texture = 64 * ONE + 191 * ridge
        tint = torch.tensor([0.92, 0.97, 1.0], dtype=torch.float64, device=images_BCHW.device)
        keep, add = (round(value * ONE) for value in self.constant)
        tints = (tint * add).round_()[:, None, None]
        return to_levels(images_BCHW.double() * (keep << BITS) + texture * tints, ONE * ONE)


@dataclass(frozen=True)
class Snow(Corruption):
    """A whitened image with snowflakes: Gaussian noise, zoomed, thresholded and motion-blurred.

        x <- a x + (1 - a) max(x, 1.5 grey + 0.5)
        x <- x + flakes + flakes rotated by 180 degrees

    Constants: mean and sigma of the noise, zoom, threshold, radius and sigma of the motion blur (at
    -135 to -45 degrees), a.
    """

    columns: ClassVar[tuple[str, ...]] = ("flake_seed", "angle")
    constants = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        seeds = words_NC[..., :1].view(np.int64)
        return np.concatenate([seeds, below(words_NC[..., 1:], ANGLES)], axis=-1)

    def _flakes(self, params_BC: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The layer of snowflakes, uint8 (B, 1, H, W)."""
        mean, sigma, zoom, threshold, radius, spread, _ = self.constant
        scale = scale_of(height, width)
        normal = normal_fixed(params_BC[:, 0].contiguous(), height * width)
        normal = normal.view(-1, 1, height, width).double()
        layer = rounded(normal * round(sigma * ONE), 1 << NORMAL_BITS) + round(mean * ONE)
        layer = sum_of_zooms(layer, [zoom * scale])  # in 2^-40
        layer.masked_fill_(layer < round(threshold * ONE) * (1 << 24), 0)
        levels = (layer.clamp_(0, 1 << 40) * 255 / (1 << 40)).floor_().to(torch.uint8)
        return moved(levels, params_BC[:, 1], (radius * scale, spread * scale), (-135, -45))

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        keep = round(self.constant[-1] * ONE)
        flakes = self._flakes(params_BC, *images_BCHW.shape[-2:]).double()
        images = images_BCHW.double()
        red, green, blue = images.split(1, dim=1)
        grey = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        white = torch.maximum(images * ONE, rounded(grey * 3, 2) + 255 * ONE // 2)
        total = images * (keep * ONE) + white * (ONE - keep)
        return to_levels(total + (flakes + flakes.flip(2, 3)) * (ONE * ONE), ONE * ONE)


@dataclass(frozen=True)
class Brightness(Corruption):
    """V of HSV raised by c, clipped at 1: every channel times (V + c) / V; black becomes grey c."""

    constants = (0.05, 0.1, 0.15, 0.2, 0.3)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        images = images_BCHW.double()
        value = images.amax(dim=1, keepdim=True)
        brighter = (value * ONE + round(self.constant * 255 * ONE)).clamp_max_(255 * ONE)
        black = value == 0
        ratio = torch.where(black, torch.ones_like(value), value)
        return to_levels(torch.where(black, brighter, images * brighter), ratio * ONE)
