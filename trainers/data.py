"""A bank on the trial's device: images, stored draws and targets, shuffled without workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from shards.arms import Arm, view_of, view_offsets
from shards.preprocess import Preprocess
from shards.reader import Split
from shards.rng import hash64


def permutation(seed: int, epoch: int, count: int) -> torch.Tensor:
    """Sample order of an epoch, int64 (count,): a pure function of (seed, epoch)."""
    word = int(hash64(seed, epoch)) >> 1
    generator = torch.Generator().manual_seed(word)
    return torch.randperm(count, generator=generator)


class ResidentData:
    """Images, draws and targets of one arm, resident on one device."""

    def __init__(self, split: Split, arm: Arm, preprocess: Preprocess, device: torch.device):
        images_NHWC = torch.from_numpy(split.images_NHWC)
        self.images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous().to(device)
        self.params_NVP = torch.from_numpy(np.ascontiguousarray(split.params_NVP)).to(device)
        self.target_NVD = torch.from_numpy(np.ascontiguousarray(split.embedding_NVD)).to(device)
        self.offsets_N = view_offsets(split.keys, self.params_NVP.shape[1])
        self.arm, self.preprocess, self.device = arm, preprocess, device

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def inputs(self, index_B: torch.Tensor, view_B: torch.Tensor) -> torch.Tensor:
        """What the student sees of these views: float32 (B, 3, size, size)."""
        params_BP = self.params_NVP[index_B, view_B]
        pixels = self.arm.pixels(self.images_NCHW[index_B], params_BP)
        return self.arm.normalised(self.preprocess(pixels), params_BP)

    def batch(self, index_B: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets float32 (B, D) of the views that `epoch` shows."""
        view_B = view_of(epoch, self.offsets_N[index_B], self.params_NVP.shape[1]).to(self.device)
        index_B = index_B.to(self.device)
        return self.inputs(index_B, view_B), self.target_NVD[index_B, view_B].float()

    def view(self, view: int, size: int) -> Iterator[torch.Tensor]:
        """Inputs of one view of every sample, in order, in batches of `size`."""
        for start in range(0, len(self), size):
            index_B = torch.arange(start, min(start + size, len(self)), device=self.device)
            yield self.inputs(index_B, torch.full_like(index_B, view))
