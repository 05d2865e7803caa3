"""A bank as a torch Dataset: image, embedding, label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from shards.arms import make_arm
from shards.bank.reader import load_manifest
from shards.bank.splits import Column, load_splits
from shards.support.plugins import load_plugins
from shards.teachers.preprocess import Preprocess

Sample = tuple[torch.Tensor, torch.Tensor, int]


class Bank(Dataset[Sample]):
    """The samples of one split under one arm, as the student sees them and the teacher embeds them.

        loader = torch.utils.data.DataLoader(Bank("shards-demo", arm="crop_flip"), batch_size=256)
        for image_BCHW, embedding_BD, label_B in loader: ...

    Args:
        location: path or URL of the bank.
        split: `train` or `test`.
        arm: one that the bank stores.
        teacher: the teacher's spec; by default the bank's only or first one.
        view: which stored view of each image; `bank.at_view(k)` gives the others.
        images: `pixels` gives uint8 (3, H, W). `native` and `teacher` give float32 inputs with the
            teacher's normalisation, at the data set's or at the teacher's size.
        raw: embeddings have the teacher's norm; by default they are unit vectors.
        streaming: leave images and embeddings on disk.

    Attributes: `classes` (names), `keys`, `views` (how many are stored), `dim` (D), `manifest`.

    Raises: ValueError for a split, arm, teacher or view that the bank lacks, `pixels` of an arm
    that acts on normalised images, a plugin that is not found, and a damaged shard; OSError.
    """

    def __init__(
        self,
        location: str,
        split: str = "train",
        arm: str = "clean",
        teacher: str | None = None,
        view: int = 0,
        images: Literal["pixels", "native", "teacher"] = "pixels",
        raw: bool = False,
        streaming: bool = False,
    ) -> None:
        self.manifest = load_manifest(location)
        plan = self.manifest.plan
        if split not in plan.arms:
            raise ValueError(f"split: `{split}`; {location} has {', '.join(plan.arms)}")
        index = 0 if teacher is None else plan.teacher_index(teacher)
        _ = load_plugins(plan.plugins, recorded=True)
        self._arm = make_arm(arm)
        self._split = load_splits(
            location, self.manifest, split, (self._arm.spec,), index, streaming
        )[self._arm.spec]
        self.classes, self.keys = plan.dataset.classes, self._split.keys
        self.views, self.dim = self._split.norm_NV.shape[1], plan.teachers[index].dim
        self.raw = raw
        self._prepare = self._preprocess(plan.teachers[index].preprocess, images)
        self._view = self._checked(view)
        if self._prepare is None and self._arm.acts_normalised:
            raise ValueError(
                f"images: arm `{self._arm.spec}` acts on normalised images, which pixels do not "
                'show; choose images="native" or "teacher"'
            )

    def _preprocess(self, teacher: Preprocess, images: str) -> Preprocess | None:
        choices = {
            "pixels": None,
            "native": teacher.native(self.manifest.plan.dataset.image_size),
            "teacher": teacher,
        }
        if images not in choices:
            raise ValueError(f"images: `{images}`; expected {', '.join(choices)}")
        return choices[images]

    def _checked(self, view: int) -> int:
        if not 0 <= view < self.views:
            raise ValueError(f"view: {view}; expected 0 to {self.views - 1}")
        return view

    def at_view(self, view: int) -> Bank:
        """The same samples under another stored view; nothing is read again."""
        other = Bank.__new__(Bank)
        other.__dict__ |= self.__dict__ | {"_view": self._checked(view)}
        return other

    def batch(self, index: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W), embeddings float32 (B, D) and labels int64 (B,) of these samples."""
        rows = np.asarray(index, dtype=np.int64)
        split, views = self._split, np.full(len(rows), self._view)
        images_BCHW = _tensor(split.images_NHWC, rows).permute(0, 3, 1, 2).contiguous()
        params_BP = _tensor(split.params_NVP, rows, views)
        pixels = self._arm.pixels(images_BCHW, params_BP)
        if self._prepare is not None:
            nyquist = self._prepare.nyquist(pixels.shape[-1])
            pixels = self._arm.normalised(self._prepare(pixels), params_BP, nyquist=nyquist)
        embedding_BD = _tensor(split.embedding_NVD, rows, views).float()
        if self.raw:
            embedding_BD *= torch.from_numpy(split.norm_NV[rows, views])[:, None]
        return pixels, embedding_BD, torch.from_numpy(split.labels_N[rows])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")  # ends iteration
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """What DataLoader calls with the indices of a batch: one read for all of them."""
        images_BCHW, embedding_BD, label_B = self.batch(indices)
        return list(zip(images_BCHW, embedding_BD, label_B.tolist(), strict=True))


def _tensor(column: Column, *at: np.ndarray | list[int]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(column[tuple(np.asarray(part) for part in at)]))
