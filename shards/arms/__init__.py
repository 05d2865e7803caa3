"""ARMS: augmentations whose draws are stored, so that teacher and student see the same pixels.

An arm is a short list of operations. `draw` gives each (sample, view) its parameters from a
counter (seed, key, view), on the CPU, as integers: these are stored in the shard. `pixels`
applies stored parameters to a uint8 batch with integer arithmetic, on any device, with the same
bits everywhere; `normalised` does what an arm does after the teacher's normalisation. Teacher
and student call this same code.

An arm is named by `NAME[:STRENGTH]`, e.g. `noise:0.1`; strengths have declared units and ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from shards.arms.base import Arm, Options, number
from shards.arms.corruption_arms import CORRUPT_ARMS
from shards.arms.ops import (
    ColorJitter,
    HorizontalFlip,
    NormalisedNoise,
    PixelNoise,
    RandomCrop,
    RandomResizedCrop,
)
from shards.support.registry import Table, split_spec
from shards.support.rng import key_id


def _clean(spec: str, strength: str) -> Arm:
    """clean: the image as it is"""
    if strength:
        raise ValueError(f"arm `{spec}`: `clean` takes no strength")
    return Arm("clean", "clean")


def _crop_flip(spec: str, strength: str) -> Arm:
    """crop_flip[:PAD]: RandomCrop with PAD pixels of padding (default 4), then a random flip"""
    pad = number(spec, strength, 4, 1, 64)
    if pad != int(pad):
        raise ValueError(f"arm `{spec}`: strength is a padding in whole pixels; got {pad}")
    ops = (RandomCrop(int(pad)), HorizontalFlip())
    return Arm(f"crop_flip:{int(pad)}", f"crop_flip/{int(pad)}", ops, {"pad": int(pad)})


def _noise(spec: str, strength: str) -> Arm:
    """noise[:SIGMA]: Gaussian noise of SIGMA (default 0.1) in [0, 1] pixels, clipped"""
    sigma, about = _pixel_sigma(spec, strength)
    return Arm(f"noise:{sigma:g}", f"noise/pixel/{sigma:g}", (PixelNoise(sigma),), about)


def _noise_denoise(spec: str, strength: str) -> Arm:
    """noise_denoise[:SIGMA]: noise (default 0.1) for the student, clean for the teacher"""
    sigma, about = _pixel_sigma(spec, strength)
    about["teacher_sees"] = "clean"
    ops = (PixelNoise(sigma),)
    return Arm(f"noise_denoise:{sigma:g}", f"noise_denoise/{sigma:g}", ops, about, denoise=True)


def _crop_flip_noise(spec: str, strength: str) -> Arm:
    """crop_flip_noise[:SIGMA]: crop_flip:4, then noise of SIGMA (default 0.1)"""
    sigma, about = _pixel_sigma(spec, strength)
    about["pad"] = 4
    ops = (RandomCrop(4), HorizontalFlip(), PixelNoise(sigma))
    return Arm(f"crop_flip_noise:{sigma:g}", f"crop_flip_noise/{sigma:g}", ops, about)


def _pixel_sigma(spec: str, strength: str) -> tuple[float, Options]:
    sigma = number(spec, strength, 0.1, 0, 1)
    return sigma, {"sigma": sigma, "space": "pixel", "unit": "[0, 1] pixels", "clipped": True}


def _color_jitter(spec: str, strength: str) -> Arm:
    """color_jitter[:STRENGTH]: colour factors 1 +- STRENGTH (default 0.4), hue STRENGTH/4 turns"""
    amount = number(spec, strength, 0.4, 0, 1)
    about: Options = {"strength": amount, "hue": amount / 4, "unit": "factors; hue in turns"}
    ops = (ColorJitter(amount),)
    return Arm(f"color_jitter:{amount:g}", f"color_jitter/{amount:g}", ops, about)


def _random_resized_crop(spec: str, strength: str) -> Arm:
    """random_resized_crop[:MIN_AREA]: a crop of that share (default 0.25) or more, resized back"""
    least = number(spec, strength, 0.25, 0, 1, above=True)
    about: Options = {"least_area": least, "unit": "share of the area", "interpolation": "bilinear"}
    about["aspect"] = "3/4 to 4/3, nearest that fits"
    ops = (RandomResizedCrop(least),)
    return Arm(f"random_resized_crop:{least:g}", f"random_resized_crop/{least:g}", ops, about)


def _noise_normalised(spec: str, strength: str) -> Arm:
    """noise_normalised[:SIGMA]: noise (default 0.1) after normalisation, unclipped (paper)"""
    sigma = number(spec, strength, 0.1, 0, 10)
    unit = "standard deviations of the data"
    about: Options = {"sigma": sigma, "space": "normalised", "unit": unit}
    ops = (NormalisedNoise(sigma),)
    return Arm(f"noise_normalised:{sigma:g}", f"noise/paper/{sigma:g}", ops, about)


ARMS: Table[Callable[[str, str], Arm]] = Table(
    "arm",
    {
        "clean": _clean,
        "crop_flip": _crop_flip,
        "noise": _noise,
        "noise_normalised": _noise_normalised,
        "noise_denoise": _noise_denoise,
        "crop_flip_noise": _crop_flip_noise,
        "color_jitter": _color_jitter,
        "random_resized_crop": _random_resized_crop,
        **CORRUPT_ARMS,
    },
)


def describe_arms() -> list[tuple[str, str]]:
    """Every arm's spelling, such as `noise[:SIGMA]`, and what it does, in one line each.

    Both are the first line of its entry's docstring, `SPELLING: WHAT`; where that line has no
    spelling, it is the description of the entry's name.
    """
    return described(ARMS)


def described(table: Mapping[str, Callable[..., object]]) -> list[tuple[str, str]]:
    """The same of any table of such entries."""
    lines = {
        name: (entry.__doc__ or "").strip().partition("\n")[0] for name, entry in table.items()
    }
    parts = {name: line.partition(": ") for name, line in lines.items()}
    return [
        (form, what) if form.startswith(name) and what else (name, lines[name])
        for name, (form, _, what) in parts.items()
    ]


def make_arm(spec: str) -> Arm:
    """`NAME[:STRENGTH]` -> Arm with its canonical spec (`noise` -> `noise:0.1`)."""
    name, strength = split_spec(spec)
    return ARMS[name](spec, strength)


def view_of(epoch: int, offsets_N: torch.Tensor, views: int) -> torch.Tensor:
    """The view each sample shows in `epoch` (0-based): (epoch + offset(key)) mod views."""
    return (epoch + offsets_N) % views


def view_offsets(keys: tuple[str, ...], views: int) -> torch.Tensor:
    """offset(key) in [0, views), int64 (N,): samples do not all start at view 0."""
    return torch.tensor([(key_id(key) >> 8) % views for key in keys], dtype=torch.int64)
