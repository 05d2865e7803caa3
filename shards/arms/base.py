"""`Arm`: a named list of operations whose draws are a pure function of (arm, seed, key, view)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from shards.arms.ops import Op, Viewer
from shards.support.rng import hash64, key_id

Options = dict[str, str | float | int | bool]


@dataclass(frozen=True)
class Arm:
    """A named list of operations. `metric` is the arm's name inside a metric's path.

    `denoise`: the teacher sees the clean image, whatever the student sees.
    """

    spec: str
    metric: str
    ops: tuple[Op, ...] = ()
    options: Options = field(default_factory=dict)
    denoise: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for op in self.ops for name in op.columns)

    @property
    def test_only(self) -> bool:
        """Whether it knows test images alone."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether two views of a sample can differ."""
        return bool(self.columns)

    def views(self, asked: int) -> int:
        """How many of `asked` views there are: one where all would be the same."""
        return asked if self.stochastic else 1

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

    def pixels(
        self, images_BCHW: torch.Tensor, params_BP: torch.Tensor, viewer: Viewer = "student"
    ) -> torch.Tensor:
        """uint8 (B, C, H, W) and stored parameters (B, P >= columns) -> uint8 (B, C, H, W)."""
        for op, params_BC in self._seen_by(viewer, params_BP):
            images_BCHW = op.pixels(images_BCHW, params_BC)
        return images_BCHW

    def normalised(
        self,
        images_BCHW: torch.Tensor,
        params_BP: torch.Tensor,
        viewer: Viewer = "student",
        nyquist: float = 0.5,
    ) -> torch.Tensor:
        """The part of the arm that acts on normalised floats; nothing for most arms.

        `nyquist`: the pictures' own, in cycles per pixel of the input (`Preprocess.nyquist`).
        """
        for op, params_BC in self._seen_by(viewer, params_BP):
            images_BCHW = op.normalised(images_BCHW, params_BC, nyquist)
        return images_BCHW

    def _seen_by(
        self, viewer: Viewer, params_BP: torch.Tensor
    ) -> Iterator[tuple[Op, torch.Tensor]]:
        """The operations with their columns."""
        at = 0
        for op in () if self.denoise and viewer == "teacher" else self.ops:
            yield op, params_BP[:, at : at + len(op.columns)]
            at += len(op.columns)


def number(
    spec: str, text: str, default: float, low: float, high: float, above: bool = False
) -> float:
    """The strength, to the six significant digits that a canonical spec writes.

    In [low, high], or in (low, high] where it must be `above` low.
    """
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = math.nan
    if not low <= value <= high or (above and value == low):
        bracket = "(" if above else "["
        raise ValueError(
            f"arm `{spec}`: strength `{text}` must be a number in {bracket}{low}, {high}]"
        )
    return abs(float(f"{value:g}"))  # abs: -0 is 0
