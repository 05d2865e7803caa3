"""`Arm`: a named list of operations whose random parameters are a pure function of
(arm, seed, key, view); and `arm_entry`, which defines an entry of ARMS by its options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from shards.arms.ops import Op, Viewer
from shards.support.rng import hash64, key_id
from shards.support.spec_options import Option, parse_options

__all__ = ["Arm", "Entry", "Option", "Options", "arm_entry"]

Options = dict[str, str | float | int | bool]
# An entry of ARMS: (the whole spec, the part after the first colon) -> Arm. The first line of its
# docstring, `SYNTAX: DESCRIPTION`, is what `--help` prints.
Entry = Callable[[str, str], "Arm"]


@dataclass(frozen=True)
class Arm:
    """A named list of operations.

    spec: canonical spec, which identifies the arm in shards and configs. metric: the arm's part of
    a metric's name, `noise/pixel/0.1` in `test/noise/pixel/0.1/accuracy`. options: what a bank's
    manifest records about the arm. denoise: the teacher is given the clean image and only the
    student the augmented one.
    """

    spec: str
    metric: str
    ops: tuple[Op, ...] = ()
    options: Options = field(default_factory=dict)
    denoise: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the stored parameters of all operations, in order."""
        return tuple(name for op in self.ops for name in op.columns)

    @property
    def test_only(self) -> bool:
        """Whether the arm exists for test images only."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether two views of a sample can differ."""
        return bool(self.columns)

    @property
    def acts_normalised(self) -> bool:
        """Whether part of the arm acts on normalised images, which pixels then do not show."""
        return any(type(op).normalised is not Op.normalised for op in self.ops)

    def views(self, requested: int) -> int:
        """The number of views to store: `requested`, or 1 where all would be identical."""
        return requested if self.stochastic else 1

    def draw(self, seed: int, keys: tuple[str, ...], views: int) -> np.ndarray:
        """Random parameters, int64 (N, views, columns): a pure function of (arm, seed, key, view).

        A counter-based generator has no state, so any worker can draw any view of any sample and
        the result does not depend on how the work is divided.
        """
        ids_N11 = np.array([key_id(k) for k in keys], dtype=np.uint64)[:, None, None]
        views_V1 = np.arange(views, dtype=np.uint64)[:, None]
        name = np.uint64(key_id(self.spec))
        index = np.arange(len(self.columns), dtype=np.uint64)
        words_NVC = hash64(name, np.uint64(seed % (1 << 64)), ids_N11, views_V1, index)
        # The empty first part gives an arm without parameters the right shape.
        parts, at = [np.zeros((len(keys), views, 0), dtype=np.int64)], 0
        for op in self.ops:
            take = words_NVC[..., at : at + len(op.columns)]
            parts.append(op.draw(np.ascontiguousarray(take)))
            at += len(op.columns)
        return np.concatenate(parts, axis=-1)

    def pixels(
        self, images_BCHW: torch.Tensor, params_BP: torch.Tensor, viewer: Viewer = "student"
    ) -> torch.Tensor:
        """Augment uint8 images (B, C, H, W) with their stored parameters (B, P).

        P may exceed the number of `columns`: the arms of a bank share one array of parameters, as
        wide as the widest arm. Returns uint8 (B, C, H, W), bit-identical on every device.
        """
        # Operations get them in the order of their shape, as which they may be read. Without any,
        # images in the channels-last format stay as they are, in which they are prepared fastest.
        if self.ops:
            images_BCHW = images_BCHW.contiguous()
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
        """Apply the part of the arm that acts on normalised images, float (B, C, H, W).

        Most arms have no such part and return the images unchanged. `nyquist`: the highest spatial
        frequency of the original images, in cycles per pixel of the network's input
        (`Preprocess.nyquist`).
        """
        for op, params_BC in self._seen_by(viewer, params_BP):
            images_BCHW = op.normalised(images_BCHW, params_BC, nyquist)
        return images_BCHW

    def check_input(self, side: int, nyquist: float) -> None:
        """Refuse inputs of `side` x `side` pixels that cannot show the arm, before any is made.

        `nyquist`: see `normalised`. Raises: ValueError naming the arm and the size.
        """
        for op in self.ops:
            op.check_input(side, nyquist)

    def _seen_by(
        self, viewer: Viewer, params_BP: torch.Tensor
    ) -> Iterator[tuple[Op, torch.Tensor]]:
        """The operations applied for `viewer`, each with its columns of the parameters."""
        at = 0
        for op in () if self.denoise and viewer == "teacher" else self.ops:
            yield op, params_BP[:, at : at + len(op.columns)]
            at += len(op.columns)


def arm_entry(
    name: str,
    summary: str,
    ops: Callable[..., tuple[Op, ...]],
    *options: Option,
    metric: str = "",
    record: Callable[..., Options] = lambda *values: {},
    denoise: bool = False,
) -> Entry:
    """Define an entry of ARMS: its options, operations, metric names and documentation.

        ARMS["cutout"] = arm_entry(
            "cutout", "a black square of SIZE pixels (default 8)", lambda size: (Cutout(size),),
            Option("size", 8, 1, 64, integer=True, unit="pixels"),
        )  # cutout, cutout:8 and cutout:12; values are named test/cutout/8/accuracy

    `ops` and `record` are called with the options' values. A manifest records the value of every
    option; `record` returns further facts to record. `metric` is a template of the arm's part of a
    metric's name, with options in braces; by default `NAME/{first}/{second}...`. `denoise`: see
    `Arm`.
    """
    template = metric or "/".join([name, *(f"{{{option.name}}}" for option in options)])

    def entry(spec: str, argument: str) -> Arm:
        values = parse_options(options, spec, argument)
        written = {key: f"{value:g}" for key, value in values.items()}
        return Arm(
            ":".join([name, *written.values()]),
            template.format(**written),
            ops(*values.values()),
            {**values, **record(*values.values())},
            denoise,
        )

    syntax = name
    if options:
        syntax += f"[:{':'.join(option.name.upper() for option in options)}]"
    entry.__doc__ = f"{syntax}: {summary}"
    return entry
