"""From uint8 images to what a network takes: the teachers' own resampling, batched.

Pillow resizes uint8 images with integer coefficients of 22 fractional bits, first along rows,
then along columns, rounding to uint8 in between. torch does the same on a CPU with coefficients
that fit 16 bits, five times as fast and nearly always within one level: over all geometries that
timm and open_clip register, at most 1.3 pixels in 10,000 of any picture were two levels apart, none
more (tests/shards/teachers/test_preprocess.py).
`resize` is torch's on a CPU; elsewhere the same integer arithmetic as two matrix products in
float64, where every partial sum is exact, so that all devices agree. Sources: Pillow,
`src/libImaging/Resample.c`; PyTorch, `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn.functional import interpolate

PILLOW_BITS = 22
CPU_BATCH = 16  # images a core takes at a time; larger is no faster, and costs memory
CPU_PIXELS = 224 * 224  # that it normalises at a time: as floats they stay in a core's cache


def _cubic(x: float) -> float:
    """Keys' kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


KERNELS = {"bicubic": (_cubic, 2.0), "bilinear": (_triangle, 1.0)}  # of teachers' inputs
RESAMPLERS = KERNELS | {"box": (_box, 0.5)}


@functools.lru_cache(maxsize=512)
def coefficients(
    source: int, target: int, kernel: str, bits: int | None = PILLOW_BITS
) -> torch.Tensor:
    """Integer weights / 2^bits, as float64 (target, source): exact; each row sums to about 1.

    `bits` None: as many as torch takes, the most with which all weights fit 16 bits.
    """
    function, reach = RESAMPLERS[kernel]
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
        weights[row, low:high] = torch.tensor([v / total for v in raw], dtype=torch.float64)
    if bits is None:
        bits, largest = 0, float(weights.max())
        while bits < PILLOW_BITS and 0.5 + largest * (1 << (bits + 1)) < 1 << 15:
            bits += 1
    fixed = weights * (1 << bits)
    return (fixed + fixed.sign() * 0.5).trunc() / (1 << bits)


def resize(images_BCHW: torch.Tensor, size: int, kernel: str = "bicubic") -> torch.Tensor:
    """uint8 (B, C, H, W) -> uint8 (B, C, size, size), antialiased as Pillow's resize is."""
    height, width = images_BCHW.shape[-2:]
    if (height, width) == (size, size):
        return images_BCHW
    if images_BCHW.device.type == "cpu":
        layout = torch.channels_last  # the layout that torch's fast path wants
        images_BCHW = images_BCHW.contiguous(memory_format=layout)
        return interpolate(images_BCHW, (size, size), mode=kernel, antialias=True)
    return resize_exact(images_BCHW, size, kernel)


def resize_exact(images_BCHW: torch.Tensor, size: int, kernel: str) -> torch.Tensor:
    """The arithmetic of torch's uint8 resize on a CPU, on any device."""
    batch, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    half = torch.full((1,), 0.5, dtype=torch.float64, device=device)
    out = images_BCHW.double().reshape(-1, height, width)
    if width != size:
        across = coefficients(width, size, kernel, None).to(device)
        out = torch.addmm(half, out.reshape(-1, width), across.T).clamp_(0, 255).floor_()
        out = out.reshape(-1, height, size)
    if height != size:
        down = coefficients(height, size, kernel, None).to(device)
        out = torch.baddbmm(half[:, None, None], down.expand(len(out), -1, -1), out)
    return out.clamp_(0, 255).view(batch, channels, size, size).to(torch.uint8)


class Preprocess(BaseModel):
    """Resize square images to `resize` (None: to `size`), cut the centre `size` x `size` out,
    scale to [0, 1], subtract `mean`, divide by `std`.

    For square images this is what open_clip's and timm's evaluation transforms do in each of
    their resize and crop modes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1)
    resize: int | None = Field(default=None, ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def native(self, image_size: int) -> Preprocess:
        """The same normalisation at the images' own resolution."""
        return self.model_copy(update={"size": image_size, "resize": None})

    def nyquist(self, image_size: int) -> float:
        """The highest frequency of pictures of that size, in cycles per pixel of the input.

        Half a cycle at the pictures' own resolution, or where they were made smaller.
        """
        return min(0.5, 0.5 * image_size / (self.resize or self.size))

    def pixels(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> uint8 (B, 3, size, size)."""
        wide = resize(images_BCHW, self.resize or self.size, self.interpolation)
        first = round((wide.shape[-1] - self.size) / 2.0)
        return wide[..., first : first + self.size, first : first + self.size]

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, size, size), normalised, channels last."""
        device, side, batch = images_BCHW.device, self.size, len(images_BCHW)
        scale, shift = _row(self.mean, self.std, side, device)
        if device.type == "cpu":
            step, rows = CPU_BATCH, max(1, CPU_PIXELS // side)
            # NumPy asks for huge pages, torch does not: new memory is ready three times as fast.
            out = torch.from_numpy(np.empty((batch, side, side * 3), dtype=np.float32))
        else:
            step, rows = max(1, batch), max(1, batch * side)
            out = torch.empty(batch, side, side * 3, device=device)
        for images, floats in zip(images_BCHW.split(step), out.split(step), strict=True):
            levels = self.pixels(images).permute(0, 2, 3, 1).reshape(-1, side * 3)
            parts = zip(levels.split(rows), floats.view(-1, side * 3).split(rows), strict=True)
            for some, part in parts:
                torch.addcmul(shift, part.copy_(some), scale, out=part)
        return out.view(batch, side, side, 3).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _row(
    mean: tuple[float, ...], std: tuple[float, ...], side: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """What levels of a row of pixels are multiplied by, and what is added then."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.repeat(side), shift.repeat(side)
