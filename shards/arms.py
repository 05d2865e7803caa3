"""ARMS: augmentations whose draws are stored, so that teacher and student see the same pixels.

An arm is a short list of operations. `draw` gives each (sample, view) its parameters from a
counter (seed, key, view), on the CPU, as integers: these are stored in the shard. `pixels`
applies stored parameters to a uint8 batch with integer arithmetic, on any device, with the same
bits everywhere; `normalised` does what an arm does after the teacher's normalisation. Teacher
and student call this same code.

An arm is named by `NAME[:STRENGTH]`, e.g. `noise:0.1`; strengths have declared units and ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from shards.rng import NORMAL_BITS, hash64, key_id, normal_fixed
from shards.table import Table, split_spec

SIGMA_BITS = 8  # fractional bits of a noise strength in uint8 levels: products stay in int32


@dataclass(frozen=True)
class Op:
    """One operation: its stored columns, and what they do to a batch."""

    columns: ClassVar[tuple[str, ...]] = ()

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        """Uniform 64-bit words (N, columns) -> int64 parameters (N, columns)."""
        raise ValueError(f"{type(self).__name__} draws nothing")

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        """uint8 -> uint8, same shape."""
        return images_BCHW

    def normalised(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        """Float after normalisation -> float, same shape."""
        return images_BCHW


def _below(words: np.ndarray, bound: int) -> np.ndarray:
    """Uniform integers in [0, bound) from the top 32 bits of each word (bias < bound / 2^32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class RandomCrop(Op):
    """Pad by `pad` black pixels on every side, crop the old size at (top, left) in [0, 2 pad]."""

    pad: int = 4
    columns: ClassVar[tuple[str, ...]] = ("top", "left")

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return _below(words_NC, 2 * self.pad + 1)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = images_BCHW.shape
        padded = torch.nn.functional.pad(images_BCHW, [self.pad] * 4)
        device = images_BCHW.device
        rows_BH = params_BC[:, 0, None] + torch.arange(height, device=device)
        cols_BW = params_BC[:, 1, None] + torch.arange(width, device=device)
        index_B = torch.arange(batch, device=device)[:, None, None]
        # Advanced indices around a slice put the channel last: (B, H, W, C).
        return padded[index_B, :, rows_BH[:, :, None], cols_BW[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class HorizontalFlip(Op):
    """Mirror left to right where `flip` is 1 (probability 1/2)."""

    columns: ClassVar[tuple[str, ...]] = ("flip",)

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return _below(words_NC, 2)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        flip_B = params_BC[:, 0].bool()
        return torch.where(flip_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)


@dataclass(frozen=True)
class PixelNoise(Op):
    """x + sigma * N(0, 1) in [0, 1] pixels, rounded to uint8 levels and clipped (CIFAR-10-C)."""

    sigma: float = 0.1
    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return words_NC.view(np.int64)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        normal = normal_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        normal = normal.view(images_BCHW.shape)
        scale = round(self.sigma * 255 * (1 << SIGMA_BITS))
        bits = SIGMA_BITS + NORMAL_BITS
        shift = (normal * scale + (1 << (bits - 1))) >> bits
        return (images_BCHW + shift).clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class NormalisedNoise(Op):
    """x + sigma * N(0, 1) AFTER normalisation by mean and std, unclipped (the paper's noise).

    The variates are the fixed table's; the sum is in floating point.
    """

    sigma: float = 0.1
    columns: ClassVar[tuple[str, ...]] = ("noise_seed",)

    def draw(self, words_NC: np.ndarray) -> np.ndarray:
        return words_NC.view(np.int64)

    def normalised(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        normal = normal_fixed(params_BC[:, 0], images_BCHW.shape[1:].numel())
        normal = normal.view(images_BCHW.shape)
        return images_BCHW + normal.to(images_BCHW.dtype) * (self.sigma / (1 << NORMAL_BITS))


@dataclass(frozen=True)
class Arm:
    """A named list of operations. `metric` is the arm's name inside a metric's path."""

    spec: str
    metric: str
    ops: tuple[Op, ...] = ()
    options: dict[str, str | float | int | bool] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for op in self.ops for name in op.columns)

    @property
    def stochastic(self) -> bool:
        """Whether two views of a sample can differ."""
        return bool(self.columns)

    def draw(self, seed: int, keys: tuple[str, ...], views: int) -> np.ndarray:
        """Parameters int64 (N, views, columns), a pure function of (arm, seed, key, view)."""
        ids_N11 = np.array([key_id(k) for k in keys], dtype=np.uint64)[:, None, None]
        views_V1 = np.arange(views, dtype=np.uint64)[:, None]
        name = np.uint64(key_id(self.spec))
        index = np.arange(len(self.columns), dtype=np.uint64)
        words_NVC = hash64(name, np.uint64(seed % (1 << 64)), ids_N11, views_V1, index)
        parts, at = [np.zeros((len(keys), views, 0), dtype=np.int64)], 0
        for op in self.ops:
            take = words_NVC[..., at : at + len(op.columns)]
            parts.append(op.draw(np.ascontiguousarray(take)))
            at += len(op.columns)
        return np.concatenate(parts, axis=-1)

    def pixels(self, images_BCHW: torch.Tensor, params_BP: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, H, W) and stored parameters (B, P >= columns) -> uint8 (B, C, H, W)."""
        return self._apply("pixels", images_BCHW, params_BP)

    def normalised(self, images_BCHW: torch.Tensor, params_BP: torch.Tensor) -> torch.Tensor:
        """The part of the arm that acts on normalised floats; nothing for most arms."""
        return self._apply("normalised", images_BCHW, params_BP)

    def _apply(self, stage: str, images: torch.Tensor, params_BP: torch.Tensor) -> torch.Tensor:
        at = 0
        for op in self.ops:
            images = getattr(op, stage)(images, params_BP[:, at : at + len(op.columns)])
            at += len(op.columns)
        return images


def _clean(spec: str, strength: str) -> Arm:
    """The image as it is."""
    if strength:
        raise ValueError(f"arm `{spec}`: `clean` takes no strength")
    return Arm("clean", "clean")


def _crop_flip(spec: str, strength: str) -> Arm:
    """RandomCrop with STRENGTH pixels of padding (default 4), then RandomHorizontalFlip."""
    pad = _number(spec, strength, 4, 1, 64)
    if pad != int(pad):
        raise ValueError(f"arm `{spec}`: strength is a padding in whole pixels; got {pad}")
    ops = (RandomCrop(int(pad)), HorizontalFlip())
    return Arm(f"crop_flip:{int(pad)}", f"crop_flip/{int(pad)}", ops, {"pad": int(pad)})


def _noise(spec: str, strength: str) -> Arm:
    """Gaussian noise of sigma STRENGTH (default 0.1) in [0, 1] pixels, clipped."""
    sigma = _number(spec, strength, 0.1, 0, 1)
    about: dict[str, str | float | int | bool] = {
        "sigma": sigma,
        "space": "pixel",
        "unit": "[0, 1] pixels",
        "clipped": True,
    }
    return Arm(f"noise:{sigma:g}", f"noise/pixel/{sigma:g}", (PixelNoise(sigma),), about)


def _noise_normalised(spec: str, strength: str) -> Arm:
    """Gaussian noise of sigma STRENGTH (default 0.1) after normalisation, unclipped (paper)."""
    sigma = _number(spec, strength, 0.1, 0, 10)
    about: dict[str, str | float | int | bool] = {
        "sigma": sigma,
        "space": "normalised",
        "unit": "standard deviations of the data",
    }
    ops = (NormalisedNoise(sigma),)
    return Arm(f"noise_normalised:{sigma:g}", f"noise/paper/{sigma:g}", ops, about)


def _number(spec: str, text: str, default: float, low: float, high: float) -> float:
    """The strength, to the six significant digits that a canonical spec writes."""
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"arm `{spec}`: strength `{text}` must be a number in [{low}, {high}]")
    return abs(float(f"{value:g}"))  # abs: -0 is 0


ARMS: Table[Callable[[str, str], Arm]] = Table(
    "arm",
    {
        "clean": _clean,
        "crop_flip": _crop_flip,
        "noise": _noise,
        "noise_normalised": _noise_normalised,
    },
)


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
