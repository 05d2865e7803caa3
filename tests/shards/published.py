"""CIFAR-10-C's corruptions written out by their definitions, one image at a time, in floats.

Straight from Hendrycks & Dietterich 2019 (Apache-2.0), in NumPy and SciPy; random numbers are
arguments. Images are float (H, W, 3) in [0, 1], and so are results.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from scipy import ndimage
from scipy.stats import poisson


def shot_noise(x, share, rate):
    """`share` in (0, 1): which quantile each count is."""
    return np.clip(poisson.ppf(share, x * rate) / rate, 0, 1)


def defocus_blur(x, radius, softness):
    at = np.arange(-8, 9)
    disk = (np.add.outer(at**2, at**2) <= radius**2).astype(float)
    line = np.array([math.exp(-0.5 / softness**2), 1, math.exp(-0.5 / softness**2)])
    soft = np.outer(line, line) / line.sum() ** 2
    kernel = ndimage.convolve(disk / disk.sum(), soft, mode="mirror")
    return np.stack([ndimage.correlate(x[..., c], kernel, mode="mirror") for c in range(3)], -1)


def _gaussian(x, sigma):
    return np.stack(
        [ndimage.gaussian_filter(x[..., c], sigma, mode="nearest", truncate=4) for c in range(3)],
        -1,
    )


def glass_blur(x, offsets, sigma, reach, rounds):
    """`offsets` (rounds, 2, 32, 32): down and right. The swap is NumPy's, views and all."""
    levels = np.round(_gaussian(x, sigma) * 255).astype(np.uint8)
    for step in range(rounds):
        for h in range(32 - reach, reach, -1):
            for w in range(32 - reach, reach, -1):
                h2, w2 = h + offsets[step, 0, h, w], w + offsets[step, 1, h, w]
                levels[h, w], levels[h2, w2] = levels[h2, w2], levels[h, w]
    return _gaussian(levels / 255, sigma)


def motion_blur(x, radius, sigma, degrees):
    """ImageMagick's motion blur with the nearest edge; x (H, W, C)."""
    width = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    out = np.zeros_like(x)
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        for h in range(x.shape[0]):
            for w in range(x.shape[1]):
                h2 = min(max(h + down, 0), x.shape[0] - 1)
                w2 = min(max(w + right, 0), x.shape[1] - 1)
                out[h, w] += weight / sum(weights) * x[h2, w2]
    return out


def clipped_zoom(x, zoom):
    side = x.shape[0]
    inner = math.ceil(side / zoom)
    top = (side - inner) // 2
    big = ndimage.zoom(x[top : top + inner, top : top + inner], (zoom, zoom, 1), order=1)
    trim = (big.shape[0] - side) // 2
    return big[trim : trim + side, trim : trim + side]


def zoom_blur(x, zooms):
    return (x + sum(clipped_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


def plasma(uniform, side, decay):
    """Diamond-square on a torus; `uniform` in [-1, 1], taken in order."""
    field, at, step, wibble = np.zeros((side, side)), 0, side, 100.0

    def displace(rows, cols, neighbours):
        nonlocal at
        for i in rows:
            for j in cols:
                mean = sum(field[a % side, b % side] for a, b in neighbours(i, j)) / 4
                fresh[i, j] = mean + wibble**2 * uniform[at]
                at += 1

    while step >= 2:
        half = step // 2
        on, off = range(0, side, step), range(half, side, step)
        square = [(-half, -half), (-half, half), (half, -half), (half, half)]
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for rows, cols, around in ((off, off, square), (on, off, cross), (off, on, cross)):
            fresh = {}
            displace(rows, cols, lambda i, j, s=around: [(i + a, j + b) for a, b in s])
            for place, value in fresh.items():
                field[place] = value
        step, wibble = half, wibble / decay
    field -= field.min()
    return field / field.max()


def fog(x, uniform, amount, decay):
    thick = x + amount * plasma(uniform, x.shape[0], decay)[..., None]
    return np.clip(thick * x.max() / (x.max() + amount), 0, 1)


def snow(x, normal, degrees, constant):
    mean, sigma, zoom, threshold, radius, spread, keep = constant
    layer = clipped_zoom((mean + sigma * normal)[..., None], zoom)
    layer[layer < threshold] = 0
    layer = np.floor(np.clip(layer, 0, 1) * 255)
    layer = np.round(motion_blur(layer, radius, spread, degrees)) / 255
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = keep * x + (1 - keep) * np.maximum(x, 1.5 * grey + 0.5)
    return np.clip(x + layer + np.rot90(layer, 2), 0, 1)


def brightness(x, more):
    out = np.empty_like(x)
    for place in np.ndindex(x.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[place])
        out[place] = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
    return out


def contrast(x, keep):
    mean = x.mean(axis=(0, 1))
    return np.clip((x - mean) * keep + mean, 0, 1)


def elastic_transform(x, moves, down, right, amount, sigma, reach):
    """`moves` (3, 2), `down` and `right` (H, W) in [-1, 1]; constants in shares of the side."""
    side = x.shape[0]
    centre, size = side // 2, side // 3
    old = centre + size * np.array([[1, 1], [1, -1], [-1, -1]])
    new = old + moves * reach * side
    matrix = np.linalg.solve(np.c_[new, np.ones(3)], old)  # (column, row, 1) -> where from
    rows, cols = np.mgrid[:side, :side].astype(float)
    where = np.stack([cols, rows, np.ones_like(rows)], -1) @ matrix
    places = [where[..., 1], where[..., 0]]
    warped = [ndimage.map_coordinates(x[..., c], places, order=1, mode="mirror") for c in range(3)]
    fields = [np.zeros_like(f) for f in (down, right)]
    if sigma:
        fields = [
            ndimage.gaussian_filter(f, sigma * side, mode="reflect", truncate=3) * amount * side
            for f in (down, right)
        ]
    places = [rows + fields[0], cols + fields[1]]
    out = [ndimage.map_coordinates(w, places, order=1, mode="reflect") for w in warped]
    return np.clip(np.stack(out, -1), 0, 1)
