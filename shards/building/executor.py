"""The interface between a build and what computes its embeddings: this process, or Ray workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shards.bank.manifest import Packed, Plan
from shards.building.request import Request
from shards.teachers import Precision

Columns = dict[str, np.ndarray]
# Reports progress: called with the number of images that were embedded since the last call.
OnImages = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """One shard to compute: samples [start, stop) of a split."""

    split: str
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class CorruptedView:
    """One view of all test images under an arm, which need not be one of the bank's arms."""

    arm: str
    view: int


def tasks_of(plan: Plan) -> list[Task]:
    """All shards of a bank, split by split, in the order of their samples."""
    step = plan.shard_samples
    return [
        Task(split, index, start, min(start + step, plan.dataset.counts[split]))
        for split in plan.arms
        for index, start in enumerate(range(0, plan.dataset.counts[split], step))
    ]


class Executor(Protocol):
    """Computes the shards of one bank.

    plan: the bank's plan, made from the opened data set and teachers.
    """

    plan: Plan

    @property
    def teacher_seconds(self) -> float:
        """Wall-clock seconds spent in the teachers, with all workers in parallel; 0 if unknown."""
        ...

    def shards(self, tasks: list[Task], on_images: OnImages) -> Iterator[tuple[Task, bytes]]:
        """Yield each task with the bytes of its tar file, in any order."""
        ...

    def corrupted(
        self, views: list[CorruptedView], on_images: OnImages
    ) -> Iterator[tuple[CorruptedView, Columns]]:
        """Yield each view with `embedding.I` of teacher I, unit vectors float16 (N, D).

        In any order.
        """
        ...

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        """Each teacher's zero-shot classifier (C, D); None without a text tower or class names."""
        ...


# Creates an executor from (request, device, {teacher spec: precision}). The precisions are those
# that an interrupted build chose, so that the remaining shards are computed in the same ones.
MakeExecutor = Callable[[Request, str, dict[str, Precision]], Executor]
