"""From uint8 images to what a network takes: Pillow's resampling, batched and integer-exact.

Pillow resizes uint8 images with integer coefficients of 22 fractional bits, first along rows,
then along columns, rounding to uint8 in between. `resize` does the same arithmetic as two matrix
products in float64, where every partial sum is an exact integer: the result equals Pillow's bit
for bit, on any device. Source: Pillow, `src/libImaging/Resample.c`.
"""

from __future__ import annotations

import functools
import math

import torch
from pydantic import BaseModel, ConfigDict, Field

PRECISION_BITS = 22


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


KERNELS = {"bicubic": (_cubic, 2.0), "bilinear": (_triangle, 1.0)}


@functools.lru_cache(maxsize=32)
def coefficients(source: int, target: int, kernel: str) -> torch.Tensor:
    """Integer weights as float64 (target, source); each row sums to about 2^22."""
    function, reach = KERNELS[kernel]
    scale = source / target
    stretch = max(scale, 1.0)
    support = reach * stretch
    weights = torch.zeros(target, source, dtype=torch.float64)
    for row in range(target):
        centre = (row + 0.5) * scale
        low = max(0, int(centre - support + 0.5))
        high = min(source, int(centre + support + 0.5))
        raw = [function((x - centre + 0.5) / stretch) for x in range(low, high)]
        total = sum(raw)
        for x, value in zip(range(low, high), raw, strict=True):
            fixed = value / total * (1 << PRECISION_BITS)
            weights[row, x] = math.trunc(fixed + math.copysign(0.5, fixed))
    return weights


def _round(sums: torch.Tensor) -> torch.Tensor:
    half = 1 << (PRECISION_BITS - 1)
    return ((sums + half) / (1 << PRECISION_BITS)).floor_().clamp_(0, 255)


def resize(images_BCHW: torch.Tensor, size: int, kernel: str = "bicubic") -> torch.Tensor:
    """uint8 (B, C, H, W) -> uint8 (B, C, size, size), equal to Pillow's resize."""
    height, width = images_BCHW.shape[-2:]
    if (height, width) == (size, size):
        return images_BCHW
    device = images_BCHW.device
    out = images_BCHW.double()
    if width != size:
        out = _round(out @ coefficients(width, size, kernel).to(device).T)
    if height != size:
        out = _round(coefficients(height, size, kernel).to(device) @ out)
    return out.to(torch.uint8)


class Preprocess(BaseModel):
    """Resize square images to `size`, scale to [0, 1], subtract `mean`, divide by `std`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def native(self, image_size: int) -> Preprocess:
        """The same normalisation at the images' own resolution."""
        return self.model_copy(update={"size": image_size})

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, size, size), normalised."""
        resized = resize(images_BCHW, self.size, self.interpolation)
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images_BCHW.device)
        shift = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images_BCHW.device
        )
        return torch.addcmul(shift[:, None, None], resized.float(), scale[:, None, None])
