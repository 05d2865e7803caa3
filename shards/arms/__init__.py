"""ARMS: augmentations with stored parameters: teacher and student see the same image.

An arm is a short list of operations. `draw` gives each (sample, view) its parameters from a
counter (seed, key, view), on the CPU, as integers; the shards store them. `pixels` applies stored
parameters to a batch of uint8 images in integer arithmetic, with the same bits on every device;
`normalised` does the part of an arm that acts after a network's normalisation. Teacher and student
call this same code.

An arm is named by `NAME[:OPTION[:OPTION]]`, e.g. `noise:0.1`. A new arm is one entry of ARMS, made
by `shards.arms.base.arm_entry` (or any function from a spec to an `Arm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from shards.arms.base import Arm, Entry, Option, Options, arm_entry
from shards.arms.corruption_arms import CORRUPT_ARMS, SPREAD
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

SIGMA = Option("sigma", 0.1, 0, 1)
PIXEL: Options = {"space": "pixel", "unit": "[0, 1] pixels", "clipped": True}

ARMS: Table[Entry] = Table(
    "arm",
    {
        "clean": arm_entry("clean", "the image unchanged", lambda: ()),
        "crop_flip": arm_entry(
            "crop_flip",
            "RandomCrop with PAD pixels of padding (default 4), then a random flip",
            lambda pad: (RandomCrop(pad), HorizontalFlip()),
            Option("pad", 4, 1, 64, integer=True, unit="pixels"),
        ),
        "noise": arm_entry(
            "noise",
            "Gaussian noise of SIGMA (default 0.1) in [0, 1] pixels, clipped",
            lambda sigma: (PixelNoise(sigma),),
            SIGMA,
            metric="noise/pixel/{sigma}",
            record=lambda sigma: PIXEL,
        ),
        "noise_normalised": arm_entry(
            "noise_normalised",
            "noise (default 0.1) after normalisation, unclipped (paper)",
            lambda sigma: (NormalisedNoise(sigma),),
            Option("sigma", 0.1, 0, 10),
            metric="noise/paper/{sigma}",
            record=lambda sigma: {"space": "normalised", "unit": SPREAD},
        ),
        "noise_denoise": arm_entry(
            "noise_denoise",
            "noise (default 0.1) for the student, clean for the teacher",
            lambda sigma: (PixelNoise(sigma),),
            SIGMA,
            record=lambda sigma: {**PIXEL, "teacher_sees": "clean"},
            denoise=True,
        ),
        "crop_flip_noise": arm_entry(
            "crop_flip_noise",
            "crop_flip:4, then noise of SIGMA (default 0.1)",
            lambda sigma: (RandomCrop(4), HorizontalFlip(), PixelNoise(sigma)),
            SIGMA,
            record=lambda sigma: {**PIXEL, "pad": 4},
        ),
        "color_jitter": arm_entry(
            "color_jitter",
            "colour factors 1 +- STRENGTH (default 0.4), hue STRENGTH/4 turns",
            lambda strength: (ColorJitter(strength),),
            Option("strength", 0.4, 0, 1),
            record=lambda strength: {"hue": strength / 4, "unit": "factors; hue in turns"},
        ),
        "random_resized_crop": arm_entry(
            "random_resized_crop",
            "a crop of that share (default 0.25) of the area or more, resized to the image's size",
            lambda least_area: (RandomResizedCrop(least_area),),
            Option("least_area", 0.25, 0, 1, above=True),
            record=lambda least_area: {
                "unit": "share of the area",
                "interpolation": "bilinear",
                "aspect": "3/4 to 4/3, nearest that fits",
            },
        ),
        **CORRUPT_ARMS,
    },
)


def describe_arms() -> list[tuple[str, str]]:
    """Every arm's spelling, such as `noise[:SIGMA]`, and what it does, in one line each.

    Both come from the first line of its entry's docstring, `SPELLING: WHAT`; a line without a
    spelling describes the entry's plain name.
    """
    return described(ARMS)


def described(table: Mapping[str, Callable[..., object]]) -> list[tuple[str, str]]:
    """(Spelling, what it does) of each entry of a table, from the entries' docstrings."""
    lines = {
        name: (entry.__doc__ or "").strip().partition("\n")[0] for name, entry in table.items()
    }
    parts = {name: line.partition(": ") for name, line in lines.items()}
    return [
        (form, what) if form.startswith(name) and what else (name, lines[name])
        for name, (form, _, what) in parts.items()
    ]


def make_arm(spec: str) -> Arm:
    """`NAME[:OPTION...]` -> the arm, with its canonical spec (`noise` -> `noise:0.1`).

    Raises: ValueError for an unknown name or an option out of range.
    """
    name, argument = split_spec(spec)
    return ARMS[name](spec, argument)


def view_of(epoch: int, offsets_N: torch.Tensor, views: int) -> torch.Tensor:
    """The view of each sample that `epoch` (from 0) trains on: (epoch + offset) mod views."""
    return (epoch + offsets_N) % views


def view_offsets(keys: tuple[str, ...], views: int) -> torch.Tensor:
    """A fixed offset of each key in [0, views), int64 (N,), so that not all start with view 0."""
    return torch.tensor([(key_id(key) >> 8) % views for key in keys], dtype=torch.int64)
