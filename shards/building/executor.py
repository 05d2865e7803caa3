"""What a build asks of whatever computes its embeddings: this process, or workers on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shards.bank.manifest import Packed, Plan
from shards.building.request import Request
from shards.teachers import Precision

Columns = dict[str, np.ndarray]
OnImages = Callable[[int], None]  # called with a number of images that a teacher has just embedded


@dataclass(frozen=True)
class Task:
    """A shard to compute: samples `start` to `stop` of `split`."""

    split: str
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class CorruptedView:
    """One view of every test image under an arm, which need not be one of the bank's arms."""

    arm: str
    view: int


def tasks_of(plan: Plan) -> list[Task]:
    """Every shard of a bank, split by split, in the order of its samples."""
    step = plan.shard_samples
    return [
        Task(split, index, start, min(start + step, plan.dataset.counts[split]))
        for split in plan.arms
        for index, start in enumerate(range(0, plan.dataset.counts[split], step))
    ]


class Executor(Protocol):
    """Computes shards of one bank. `plan` is the bank's plan, made from the opened data set and
    teachers."""

    plan: Plan

    @property
    def teacher_seconds(self) -> float:
        """Wall-clock seconds that the teachers alone took, all workers in parallel; 0: unknown."""
        ...

    def shards(self, tasks: list[Task], on_images: OnImages) -> Iterator[tuple[Task, bytes]]:
        """Each task with the bytes of its tar file, in any order."""
        ...

    def corrupted(
        self, views: list[CorruptedView], on_images: OnImages
    ) -> Iterator[tuple[CorruptedView, Columns]]:
        """Each view with `embedding.I` of teacher I, float16 unit vectors (N, D), in any order."""
        ...

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        """Each teacher's zero-shot classifier (C, D); None without a text tower or class names."""
        ...


# Makes an executor from (request, device, {teacher spec: precision}). The precisions are those that
# an interrupted build has already chosen, so that its other shards are computed in the same ones.
MakeExecutor = Callable[[Request, str, dict[str, Precision]], Executor]
