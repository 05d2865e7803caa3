"""From uint8 images to what a network takes: Pillow's resampling, batched and integer-exact.

Pillow resizes uint8 images with integer coefficients of 22 fractional bits, first along rows,
then along columns, rounding to uint8 in between. `resize` does the same arithmetic as two matrix
products in float64, where every partial sum is exact: the result equals Pillow's bit for bit, on
any device. Source: Pillow, `src/libImaging/Resample.c`.
"""

from __future__ import annotations

import functools
import math

import torch
from pydantic import BaseModel, ConfigDict, Field

PRECISION_BITS = 22
CACHED = 1 << 19  # float64 values that a CPU core's cache holds: more at a time is 2.5x slower


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
    """Integer weights / 2^22, as float64 (target, source): exact; each row sums to about 1."""
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
    return weights / (1 << PRECISION_BITS)


def resize(images_BCHW: torch.Tensor, size: int, kernel: str = "bicubic") -> torch.Tensor:
    """uint8 (B, C, H, W) -> uint8 (B, C, size, size), equal to Pillow's resize."""
    height, width = images_BCHW.shape[-2:]
    if (height, width) == (size, size):
        return images_BCHW
    out = images_BCHW.new_empty((*images_BCHW.shape[:2], size, size))
    step = _at_once(images_BCHW, size)
    for i in range(0, len(out), step):
        out[i : i + step] = _resize(images_BCHW[i : i + step], size, kernel)
    return out


def _at_once(images_BCHW: torch.Tensor, size: int) -> int:
    """How many images to work on at a time: on a CPU what fits its cache, else all."""
    if images_BCHW.device.type != "cpu":
        return max(1, len(images_BCHW))
    return max(1, CACHED // (images_BCHW.shape[1] * size * size))


def _resize(images_BCHW: torch.Tensor, size: int, kernel: str) -> torch.Tensor:
    """uint8 (B, C, H, W) -> float64 (B, C, size, size) whose integer parts are the pixels."""
    batch, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    half = torch.full((1,), 0.5, dtype=torch.float64, device=device)
    out = images_BCHW.double().reshape(-1, height, width)
    if width != size:
        across = coefficients(width, size, kernel).to(device)
        out = torch.addmm(half, out.reshape(-1, width), across.T).clamp_(0, 255).floor_()
        out = out.reshape(-1, height, size)
    if height != size:
        down = coefficients(height, size, kernel).to(device)
        out = torch.baddbmm(half[:, None, None], down.expand(len(out), -1, -1), out)
    return out.clamp_(0, 255).view(batch, channels, size, size)


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
        device = images_BCHW.device
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=device)
        pairs = zip(self.mean, self.std, strict=True)
        shift = torch.tensor([-m / s for m, s in pairs], device=device)
        shape = (*images_BCHW.shape[:2], self.size, self.size)
        out = torch.empty(shape, dtype=torch.float32, device=device)
        step = _at_once(images_BCHW, self.size)
        for i in range(0, len(out), step):
            resized = resize(images_BCHW[i : i + step], self.size, self.interpolation)
            torch.addcmul(
                shift[:, None, None],
                resized.float(),
                scale[:, None, None],
                out=out[i : i + step],
            )
        return out
