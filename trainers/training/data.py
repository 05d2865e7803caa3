"""Training batches from a bank: inputs and targets.

Their order is a pure function of (seed, epoch) over the samples as the bank stores them: it does
not depend on prefetching or on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from shards.arms import Arm, view_of, view_offsets
from shards.bank.order import keyed_order
from shards.bank.splits import Column, Split
from shards.bank.stream import StreamedColumn
from shards.support.rng import hash64
from shards.support.threads import prefetch
from shards.teachers.preprocess import Preprocess
from trainers.objectives.targets import Target

PREFETCH = 2  # batches read ahead of the one in use


def permutation(seed: int, epoch: int, count: int) -> torch.Tensor:
    """Sample order of an epoch, int64 (count,): a pure function of (seed, epoch)."""
    word = int(hash64(seed, epoch)) >> 1
    generator = torch.Generator().manual_seed(word)
    return torch.randperm(count, generator=generator)


class Data:
    """Augmented images and targets of one arm.

    Columns are tensors on the device, or are streamed from disk and read ahead by one thread. Both
    yield the same batches.

    Args:
        split: the samples, with the arm's stored augmentation parameters.
        arm: how those parameters change an image.
        preprocess: how the student's images are prepared.
        device: of the tensors that it returns.
        target: makes targets from the raw teacher embeddings of the views (and from labels); by
            default they are the embeddings.
        two_views: inputs are cat([view, next view]) of each image, with six channels.
    """

    def __init__(
        self,
        split: Split,
        arm: Arm,
        preprocess: Preprocess,
        device: torch.device,
        target: Target | None = None,
        two_views: bool = False,
    ) -> None:
        self.arm, self.preprocess, self.device = arm, preprocess, device
        self.target, self.two_views = (target or Target("teacher")).to(device), two_views
        self.keys = split.keys
        self.count, self.views = split.params_NVP.shape[:2]
        self._offsets_N = view_offsets(split.keys, self.views)
        self._images_NHWC = self._resident(split.images_NHWC)
        self._params_NVP = self._resident(split.params_NVP)
        self._unit_NVD = self._resident(split.embedding_NVD)
        self._norm_NV = self._resident(split.norm_NV)
        self._labels_N = self._resident(split.labels_N)

    def _resident(self, column: Column) -> torch.Tensor | StreamedColumn:
        if isinstance(column, StreamedColumn):
            return column  # stays on disk
        return torch.from_numpy(np.ascontiguousarray(column)).to(self.device)

    def __len__(self) -> int:
        return self.count

    def _take(self, column: torch.Tensor | StreamedColumn, *at: torch.Tensor) -> torch.Tensor:
        """Rows, or single views of rows, on the device."""
        if isinstance(column, StreamedColumn):
            index = tuple(part.numpy() for part in at)
            rows = column[index]
            return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        first, *others = (part.to(self.device) for part in at)
        if others:
            return column[(first, *others)]
        # Copies whole rows, where indexing by a tensor copies one element after another.
        return column.index_select(0, first)

    def inputs(self, index_B: torch.Tensor, view_B: torch.Tensor) -> torch.Tensor:
        """The student's input for one view of each image: float32 (B, 3, size, size).

        index_B: samples. view_B: which view of each.
        """
        images_BCHW = self._take(self._images_NHWC, index_B).permute(0, 3, 1, 2)
        params_BP = self._take(self._params_NVP, index_B, view_B)
        pixels = self.arm.pixels(images_BCHW, params_BP)
        nyquist = self.preprocess.nyquist(pixels.shape[-1])
        return self.arm.normalised(self.preprocess(pixels), params_BP, nyquist=nyquist)

    def batch(self, index_B: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (see `inputs`), and targets float32 (B, E), of the views shown in `epoch`."""
        view_B = view_of(epoch, self._offsets_N[index_B], self.views)
        raw_BD = self._take(self._unit_NVD, index_B, view_B).float()
        raw_BD *= self._take(self._norm_NV, index_B, view_B)[:, None]
        targets_BE = self.target(raw_BD, self._take(self._labels_N, index_B))
        images_BCHW = self.inputs(index_B, view_B)
        if self.two_views:
            other_BCHW = self.inputs(index_B, (view_B + 1) % self.views)
            images_BCHW = torch.cat([images_BCHW, other_BCHW], dim=1)
        return images_BCHW, targets_BE

    def batches(
        self, parts: Iterable[torch.Tensor], epoch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`batch` of each part, in order."""
        yield from self._prefetched(lambda index_B: self.batch(index_B, epoch), parts)

    def view(self, view: int, size: int) -> Iterator[torch.Tensor]:
        """Inputs of one view of every sample, in keyed order, in batches of `size`.

        See `shards.bank.order`.
        """
        parts = torch.tensor(keyed_order(self.keys)).split(size)
        yield from self._prefetched(lambda i_B: self.inputs(i_B, torch.full_like(i_B, view)), parts)

    def _prefetched(self, make: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
        """make(part) of each part, in order; a thread makes them ahead where data is streamed."""
        if not isinstance(self._images_NHWC, StreamedColumn):
            yield from map(make, parts)
            return
        with ThreadPoolExecutor(1) as pool:
            yield from prefetch(pool, make, parts, PREFETCH)
