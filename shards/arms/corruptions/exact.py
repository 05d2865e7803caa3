"""Image filters in exact arithmetic: integers in float64, so the order of sums does not matter.

Weights are integers with `BITS` fractional bits and every sum stays below 2^53, where float64
represents integers exactly. Results are therefore bit-identical on every device and for every
batch size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

BITS = 16  # fractional bits of weights
# Numbers of an intermediate result held at once: on a CPU it should fit in the cache, on a GPU in
# memory.
CACHE, MEMORY = 1 << 17, 1 << 25
ONE = 1 << BITS
Taps = list[tuple[int, int, int]]  # (rows down, columns right, weight)


def scale_of(height: int, width: int) -> float:
    """The factor from lengths published for 32 pixels: shorter side / 32, at least 1."""
    return max(1.0, min(height, width) / 32)


def to_levels(total: torch.Tensor, unit: int | torch.Tensor) -> torch.Tensor:
    """Fixed-point levels, integers in units of 1 / `unit`, to the nearest uint8 level, clipped."""
    return (total / unit).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def rounded(total: torch.Tensor, unit: int) -> torch.Tensor:
    """total / unit, rounded to the nearest integer, in float64."""
    return (total / unit).add_(0.5).floor_()


def weights(raw: np.ndarray) -> np.ndarray:
    """Normalise non-negative numbers to integers of the same shape whose sum is 2^BITS."""
    fixed = np.round(raw / raw.sum() * ONE).astype(np.int64)
    # The largest weight takes the rounding error, so that a constant image stays exactly constant.
    fixed.flat[int(np.argmax(fixed))] += ONE - fixed.sum()
    return fixed


def gaussian(sigma: float, reach: int) -> np.ndarray:
    """Integer weights of a Gaussian at -reach, ..., reach; a single weight where sigma is 0."""
    if sigma <= 0 or reach == 0:
        return np.array([ONE], dtype=np.int64)
    return weights(np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2))


def mirror(index: torch.Tensor, size: int) -> torch.Tensor:
    """Edges dcb|abcd|cba: reflected about the outermost pixels (OpenCV's BORDER_REFLECT_101).

    Maps indices outside [0, size) to indices inside, like the other edge functions below.
    """
    if size == 1:
        return torch.zeros_like(index)
    folded = index % (2 * size - 2)
    return torch.minimum(folded, 2 * size - 2 - folded)


def symmetric(index: torch.Tensor, size: int) -> torch.Tensor:
    """Edges cba|abcd|dcb: reflected about the image's border (SciPy's `reflect`)."""
    folded = index % (2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)


def nearest(index: torch.Tensor, size: int) -> torch.Tensor:
    """Edges aaa|abcd|ddd: the outermost pixel is repeated."""
    return index.clamp(0, size - 1)


Edge = Callable[[torch.Tensor, int], torch.Tensor]


def correlate(images_BCHW: torch.Tensor, taps: Taps, edge: Edge) -> torch.Tensor:
    """Correlation: the sum over taps of weight * image[row + down, column + right].

    Returns float64 integers (B, C, H, W) in units of 2^-BITS; `edge` extends the image.
    """
    height, width = images_BCHW.shape[-2:]
    pad = max(max(abs(down), abs(right)) for down, right, _ in taps)
    device = images_BCHW.device
    rows = edge(torch.arange(-pad, height + pad, device=device), height)
    cols = edge(torch.arange(-pad, width + pad, device=device), width)
    wide = images_BCHW.double()[:, :, rows][..., cols]
    out = torch.zeros(images_BCHW.shape, dtype=torch.float64, device=device)
    for down, right, weight in taps:
        top, left = pad + down, pad + right
        out.add_(wide[:, :, top : top + height, left : left + width], alpha=weight)
    return out


def separable(images_BCHW: torch.Tensor, kernel: np.ndarray, edge: Edge) -> torch.Tensor:
    """Filter with a symmetric 1-D kernel along columns, then along rows.

    Returns float64 integers (B, C, H, W) in units of 2^-(2 BITS).
    """
    reach = len(kernel) // 2
    if reach == 0:
        return images_BCHW.double() * (ONE * ONE)
    steps = list(zip(range(-reach, reach + 1), kernel.tolist(), strict=True))
    down = correlate(images_BCHW, [(step, 0, weight) for step, weight in steps], edge)
    return correlate(down, [(0, step, weight) for step, weight in steps], edge)


@functools.lru_cache(maxsize=256)
def zoom_matrix(size: int, zoom: float) -> torch.Tensor:
    """The matrix of a centred zoom along one axis, float64 (size, size), in units of 2^-12.

    The middle ceil(size / zoom) pixels are enlarged by linear interpolation, with the end pixels at
    the ends (`scipy.ndimage.zoom`, order 1), and the middle `size` pixels of the result are kept.
    """
    inner = math.ceil(size / zoom)
    outer = round(inner * zoom)
    first, trim = (size - inner) // 2, (outer - size) // 2
    at = np.arange(trim, trim + size) * ((inner - 1) / max(outer - 1, 1))
    low = np.minimum(np.floor(at).astype(np.int64), inner - 1)
    weight = np.round((at - low) * 4096)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), first + low] += 4096 - weight
    matrix[np.arange(size), first + np.minimum(low + 1, inner - 1)] += weight
    return torch.from_numpy(matrix)


def sum_of_zooms(images_BCHW: torch.Tensor, zooms: list[float]) -> torch.Tensor:
    """The sum of an image's zooms: float64 integers (B, C, H, W), in units of 2^-24.

    `images_BCHW`: integers in float64. The batch is processed in pieces that keep the intermediate
    result, one copy of the rows per zoom, small.
    """
    height, width = images_BCHW.shape[-2:]
    device, count = images_BCHW.device, len(zooms)
    down, across = (
        torch.stack([zoom_matrix(size, zoom) for zoom in zooms]).to(device)
        for size in (height, width)
    )
    down = down.reshape(count * height, height)
    across = across.transpose(1, 2).reshape(count * width, width)
    room = CACHE if device.type == "cpu" else MEMORY
    step = max(1, room // max(1, count * images_BCHW[:1].numel()))
    total = torch.zeros_like(images_BCHW)
    for images, out in zip(images_BCHW.split(step), total.split(step), strict=True):
        rows = (down @ images).unflatten(2, (count, height))  # (B, C, Z, H, W)
        out.copy_(rows.transpose(2, 3).flatten(3) @ across)
    return total


def bilinear(
    images_BCHW: torch.Tensor, rows_BHW: torch.Tensor, cols_BHW: torch.Tensor, edge: Edge
) -> torch.Tensor:
    """Bilinear sampling at (row, column), given as int64 in units of 2^-8 pixels.

    Returns float64 integers (B, C, H, W) in units of 2^-16; `edge` extends the image.
    """
    height, width = images_BCHW.shape[-2:]
    index_B = torch.arange(len(images_BCHW), device=images_BCHW.device)[:, None, None]
    out = torch.zeros(images_BCHW.shape, dtype=torch.float64, device=images_BCHW.device)
    for down in (0, 1):
        for right in (0, 1):
            row = edge((rows_BHW >> 8) + down, height)
            col = edge((cols_BHW >> 8) + right, width)
            part = images_BCHW[index_B, :, row, col].permute(0, 3, 1, 2)  # (B, H, W, C) first
            weight_row = (rows_BHW & 255) if down else 256 - (rows_BHW & 255)
            weight_col = (cols_BHW & 255) if right else 256 - (cols_BHW & 255)
            out += part * (weight_row * weight_col)[:, None].double()
    return out
