"""ARMS: augmentations whose parameters are stored, so teacher and student see the same image.

An arm, named as in "treatment arm", is one augmentation that teachers or students are given: a
short list of operations. `Arm.draw` computes the random parameters of each (sample, view) as
integers, on the CPU, from a counter-based generator keyed by (seed, key, view); the shards store
them. `Arm.pixels` applies stored parameters to a batch of uint8 images in integer arithmetic, with
bit-identical results on every device; `Arm.normalised` applies the part of an arm that acts after
the normalisation by mean and standard deviation. Teacher and student call the same code.

An arm is named by `NAME[:OPTION[:OPTION]]`, e.g. `noise:0.1`. A new arm is one entry of ARMS, made
by `shards.arms.base.arm_entry` (or any function from a spec to an `Arm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

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

PLUGIN = "plugin"  # option of the arms that a plugin registered
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
            "noise of SIGMA (default 0.1) after normalisation, unclipped (paper)",
            lambda sigma: (NormalisedNoise(sigma),),
            Option("sigma", 0.1, 0, 10),
            metric="noise/paper/{sigma}",
            record=lambda sigma: {"space": "normalised", "unit": SPREAD},
        ),
        "noise_denoise": arm_entry(
            "noise_denoise",
            "noise of SIGMA (default 0.1) for the student, the clean image for the teacher",
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
            "brightness, contrast, saturation within 1 +- STRENGTH (default 0.4); hue too",
            lambda strength: (ColorJitter(strength),),
            Option("strength", 0.4, 0, 1),
            record=lambda strength: {"hue": strength / 4, "unit": "factors; hue in turns"},
        ),
        "random_resized_crop": arm_entry(
            "random_resized_crop",
            "a crop of at least LEAST_AREA (default 0.25) of the area, resized back",
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
    """(spec syntax, such as `noise[:SIGMA]`, one-line description) of every arm, for `--help`."""
    return described(ARMS)


def described(table: Mapping[str, Callable[..., object]]) -> list[tuple[str, str]]:
    """(spec syntax, one-line description) of each entry of a table.

    Both come from the first line of the entry's docstring, `SYNTAX: DESCRIPTION`. A line without
    this form is taken as the description, and the entry's name as the syntax.
    """
    lines = {
        name: (entry.__doc__ or "").strip().partition("\n")[0] for name, entry in table.items()
    }
    parts = {name: line.partition(": ") for name, line in lines.items()}
    return [
        (form, what) if form.startswith(name) and what else (name, lines[name])
        for name, (form, _, what) in parts.items()
    ]


def make_arm(spec: str) -> Arm:
    """The arm that a spec `NAME[:OPTION...]` names; `Arm.spec` is canonical (`noise:0.1`).

    The options of a plugin's arm name the plugin with its hash (MODULE@HASH), and so do the shards.
    Raises: ValueError for an unknown name or an option out of range.
    """
    name, argument = split_spec(spec)
    arm = ARMS[name](spec, argument)
    if name not in ARMS.plugins:
        return arm
    return replace(arm, options={**arm.options, PLUGIN: ARMS.plugins[name]})


def view_of(epoch: int, offsets_N: torch.Tensor, views: int) -> torch.Tensor:
    """The view of each sample in `epoch` (from 0): (epoch + offset) mod views, int64 (N,)."""
    return (epoch + offsets_N) % views


def view_offsets(keys: tuple[str, ...], views: int) -> torch.Tensor:
    """A fixed pseudo-random offset in [0, views) for each key, int64 (N,).

    Without offsets the first epoch would train on view 0 of all samples, the second on view 1, and
    so on; with them each epoch mixes all views.
    """
    return torch.tensor([(key_id(key) >> 8) % views for key in keys], dtype=torch.int64)
