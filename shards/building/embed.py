"""One shard's columns: images through their arms and the teachers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from shards.arms import Arm, make_arm
from shards.bank.manifest import Packed, Plan
from shards.bank.members import pack
from shards.building.request import Request, embedded, images_at_once, make_plan
from shards.building.stopwatch import Stopwatch
from shards.datasets import open_dataset
from shards.datasets.base import Block
from shards.support.threads import check_device, prefetch, single_core_map
from shards.teachers import Precision, Teacher, open_teacher
from shards.teachers.precision import choose_precision
from shards.teachers.prompts import class_embeddings, pack_floats

CALIBRATION = 32  # images on which the precision of the arithmetic is chosen
Columns = dict[str, np.ndarray]
Map = Callable[..., Iterator[Any]]
Tick = Callable[[int], None]


def channels_first(images_NHWC: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, C) -> a copy (B, C, H, W)."""
    return torch.from_numpy(images_NHWC.transpose(0, 3, 1, 2).copy())


def embed_view(
    teachers: list[Teacher],
    arm: Arm,
    images_BCHW: torch.Tensor,
    params_BP: torch.Tensor,
    timed: Callable[[Callable[[], torch.Tensor]], torch.Tensor] = lambda action: action(),
) -> list[torch.Tensor]:
    """What each teacher says of uint8 images under stored draws: float32 (B, D) each."""
    pixels = arm.pixels(images_BCHW, params_BP, viewer="teacher")
    parts = []
    for teacher in teachers:
        nyquist = teacher.preprocess.nyquist(pixels.shape[-1])
        inputs = arm.normalised(teacher.preprocess(pixels), params_BP, "teacher", nyquist)
        parts.append(timed(lambda t=teacher, x=inputs: t.embed(x)))
    return parts


@dataclass(frozen=True)
class Task:
    """A shard to compute: samples `start` to `stop` of `split`."""

    split: str
    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class CorruptView:
    """One view of every test image under an arm, which need not be among the bank's."""

    arm: str
    view: int


def tasks_of(plan: Plan) -> list[Task]:
    step = plan.shard_samples
    return [
        Task(split, index, start, min(start + step, plan.dataset.counts[split]))
        for split in plan.arms
        for index, start in enumerate(range(0, plan.dataset.counts[split], step))
    ]


class Computes(Protocol):
    """Where a bank is computed: in this process, or on a cluster."""

    plan: Plan

    @property
    def teacher_seconds(self) -> float:
        """How long the teachers alone were at work, all workers side by side; 0 if unknown."""
        ...

    def shards(self, todo: list[Task], tick: Tick) -> Iterator[tuple[Task, bytes]]: ...
    def corrupted(
        self, todo: list[CorruptView], tick: Tick
    ) -> Iterator[tuple[CorruptView, Columns]]: ...
    def class_embeddings(self) -> tuple[Packed | None, ...]: ...


class Embedder:
    """The data set and the teachers of a request on one device, and what they make of it.

    `precisions`: of teachers, as an interrupted build has chosen them. Raises: ValueError.
    """

    def __init__(self, request: Request, device: str, precisions: dict[str, Precision]) -> None:
        check_device(device)
        self.device, self.watch = device, Stopwatch(device)
        self.dataset = open_dataset(
            request.dataset, request.image_size, request.train_samples, request.test_samples
        )
        self.teachers = [self._open(spec, request, precisions) for spec in request.teachers]
        self.plan = make_plan(request, self.dataset, self.teachers, device)
        self._step = images_at_once(self.plan.batch, device)

    def _open(self, spec: str, request: Request, precisions: dict[str, Precision]) -> Teacher:
        precision = request.precision
        if precision == "auto":
            precision = precisions.get(spec) or self._choose(spec)
        return open_teacher(spec, self.device, precision)

    def _choose(self, spec: str) -> Precision:
        count = min(CALIBRATION, self.dataset.count("train"))
        images_NHWC = self.dataset.read("train", 0, count).images_NHWC
        return choose_precision(spec, self.device, channels_first(images_NHWC)).precision

    @property
    def teacher_seconds(self) -> float:
        workers = torch.get_num_threads() if self.plan.device == "cpu" else 1
        return self.watch.seconds() / workers

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        """Of each teacher that has a text tower: what the prompts of every class become."""
        classes, templates = self.plan.dataset.classes, self.plan.templates

        def one(teacher: Teacher) -> Packed | None:
            if not teacher.has_text:
                return None
            found_CD = class_embeddings(teacher, classes, templates)
            return Packed.model_validate(pack_floats(found_CD))

        with single_core_map(self.device) as each:
            return tuple(each(one, self.teachers))

    def read(self, task: Task) -> Block:
        return self.dataset.read(task.split, task.start, task.stop)

    def shards(self, todo: list[Task], tick: Tick) -> Iterator[tuple[Task, bytes]]:
        """Tasks with their tars, in order, reading one block ahead.

        `tick` hears of images that went through a teacher.
        """
        with single_core_map(self.device) as each, ThreadPoolExecutor(1) as reader:
            for task, block in zip(todo, prefetch(reader, self.read, todo, depth=1), strict=True):
                columns = self.columns(task.split, block, each, tick)
                yield task, pack(task.index, columns, block.keys)

    def columns(self, split: str, block: Block, each: Map, tick: Tick) -> Columns:
        """Raises: ValueError naming sample and arm where an embedding is not finite or is 0."""
        records = self.plan.arms[split]
        n, views = len(block.keys), self.plan.views(split)
        params_NVP = np.zeros((n, views, max(len(r.columns) for r in records)), dtype=np.int64)
        for record in records:
            drawn = make_arm(record.arm).draw(
                self.plan.seed, block.keys, record.stop - record.start
            )
            params_NVP[:, record.start : record.stop, : len(record.columns)] = drawn
        columns = {
            "image": block.images_NHWC,
            "label": block.labels_N,
            "params": params_NVP,
        }
        for i, teacher in enumerate(self.teachers):
            columns[f"embedding.{i}"] = np.empty((n, views, teacher.dim), dtype=np.float16)
            columns[f"norm.{i}"] = np.empty((n, views), dtype=np.float32)
        self._fill(split, block, columns, each, tick)
        return columns

    def _fill(self, split: str, block: Block, columns: Columns, each: Map, tick: Tick) -> None:
        images_NCHW = channels_first(block.images_NHWC)
        params_NVP = torch.from_numpy(columns["params"])
        records = self.plan.arms[split]
        jobs = [
            (make_arm(record.arm), view, start)
            for record in records
            if embedded(record)
            for view in range(record.start, record.stop)
            for start in range(0, len(images_NCHW), self._step)
        ]

        def one(job: tuple[Arm, int, int]) -> list[torch.Tensor]:
            arm, view, start = job
            at = slice(start, start + self._step)
            images_BCHW = images_NCHW[at].to(self.device)
            params_BP = params_NVP[at, view].to(self.device)
            return embed_view(self.teachers, arm, images_BCHW, params_BP, self.watch.time)

        results = []
        for job, parts in zip(jobs, each(one, jobs), strict=True):
            results.append((job, parts))
            tick(sum(len(part) for part in parts))
        for (arm, view, start), parts in results:
            rows = slice(start, start + len(parts[0]))
            for i, raw_BD in enumerate(parts):
                unit_BD, norm_B = self._unit(raw_BD.cpu().numpy(), block.keys[rows], arm, i)
                columns[f"embedding.{i}"][rows, view] = unit_BD
                columns[f"norm.{i}"][rows, view] = norm_B
        for record in records:
            if not embedded(record):  # the teacher saw the clean image, which is view 0
                for i in range(len(self.teachers)):
                    for name in (f"embedding.{i}", f"norm.{i}"):
                        at = slice(record.start, record.stop)
                        columns[name][:, at] = columns[name][:, :1]

    @functools.cached_property
    def _test_blocks(self) -> list[Block]:
        """The test split, in memory."""
        return [self.read(task) for task in tasks_of(self.plan) if task.split == "test"]

    def corrupted(
        self, todo: list[CorruptView], tick: Tick
    ) -> Iterator[tuple[CorruptView, Columns]]:
        """Views with `embedding.I` of each teacher, as a shard would hold it: float16 (N, D)."""
        with single_core_map(self.device) as each:
            for item in todo:
                parts = [self._corrupt(block, item, each, tick) for block in self._test_blocks]
                names = [f"embedding.{i}" for i in range(len(self.teachers))]
                yield item, {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _corrupt(self, block: Block, item: CorruptView, each: Map, tick: Tick) -> Columns:
        arm = make_arm(item.arm)
        images_NCHW = channels_first(block.images_NHWC)
        params_NP = torch.from_numpy(
            arm.draw(self.plan.seed, block.keys, item.view + 1)[:, item.view].copy()
        )

        def one(start: int) -> list[torch.Tensor]:
            at = slice(start, start + self._step)
            images_BCHW = images_NCHW[at].to(self.device)
            return embed_view(self.teachers, arm, images_BCHW, params_NP[at].to(self.device))

        columns: dict[str, list[np.ndarray]] = {}
        starts = range(0, len(images_NCHW), self._step)
        for start, raws in zip(starts, each(one, starts), strict=True):
            for i, raw_BD in enumerate(raws):
                keys = block.keys[start : start + len(raw_BD)]
                unit_BD, _ = self._unit(raw_BD.cpu().numpy(), keys, arm, i)
                columns.setdefault(f"embedding.{i}", []).append(unit_BD.astype(np.float16))
            tick(sum(map(len, raws)))
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    def _unit(
        self, raw_BD: np.ndarray, keys: tuple[str, ...], arm: Arm, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        norm_B = np.linalg.norm(raw_BD, axis=1)
        good_B = np.isfinite(raw_BD).all(axis=1) & (norm_B > 0)
        if not good_B.all():
            bad = keys[int(np.argmin(good_B))]
            raise ValueError(
                f"teacher {self.teachers[index].spec}: the embedding of sample `{bad}` (arm "
                f"{arm.spec}) is not finite or has norm 0; nothing of this was written"
            )
        return raw_BD / norm_B[:, None], norm_B
