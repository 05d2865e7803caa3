"""CORRUPTIONS: the corruptions of CIFAR-10-C at five severities, for images of any size.

Definitions and severities are those of the script that generated CIFAR-10-C (Hendrycks &
Dietterich, ICLR 2019; `make_cifar_c.py`), with its constants for 32 pixels. For other sizes,
lengths in pixels grow with the shorter side and are never less than at 32 pixels (`scale_of`);
what is relative to the image (zooms, fog, elastic displacements, pixelation) stays relative.
Intended differences from the script:

- random numbers are derived from stored integers, and all arithmetic is exact (integers, or
  integers in float64), so that results are bit-identical on every device;
- results are rounded to uint8 levels, where the script truncates;
- the script's frost overlays photographs, which cannot be redistributed. `procedural_frost`
  overlays a computed texture with the same weights, under a name of its own. The published frost
  images are read from files (`shards.arms.cifar10c_files`).
"""

from __future__ import annotations

from collections.abc import Callable

from shards.arms.corruptions.blur import DefocusBlur, GlassBlur, MotionBlur, ZoomBlur
from shards.arms.corruptions.digital import Contrast, ElasticTransform, Jpeg, Pixelate
from shards.arms.corruptions.noise import ImpulseNoise, ShotNoise
from shards.arms.corruptions.weather import Brightness, Fog, ProceduralFrost, Snow
from shards.arms.ops import Op, PixelNoise
from shards.support.registry import Table

SEVERITIES = (1, 2, 3, 4, 5)
GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)  # sigma in [0, 1] pixels


def _gaussian_noise(severity: int) -> Op:
    return PixelNoise(GAUSSIAN[severity - 1])


CORRUPTIONS: Table[Callable[[int], Op]] = Table(
    "corruption",
    {
        "gaussian_noise": _gaussian_noise,
        "shot_noise": ShotNoise,
        "impulse_noise": ImpulseNoise,
        "defocus_blur": DefocusBlur,
        "glass_blur": GlassBlur,
        "motion_blur": MotionBlur,
        "zoom_blur": ZoomBlur,
        "snow": Snow,
        "procedural_frost": ProceduralFrost,
        "fog": Fog,
        "brightness": Brightness,
        "contrast": Contrast,
        "elastic_transform": ElasticTransform,
        "pixelate": Pixelate,
        "jpeg_compression": Jpeg,
    },
    closed=True,
)
