"""Compute the shards of a bank: every arm and every teacher on each image, on one device."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from shards.arms import Arm, make_arm
from shards.bank.manifest import Packed
from shards.bank.members import pack
from shards.building.executor import Columns, CorruptedView, OnImages, Task, tasks_of
from shards.building.request import Request, images_at_once, make_plan, needs_teacher
from shards.datasets import open_dataset
from shards.datasets.base import Block, check_block, check_train_classes, have_names
from shards.support.threads import check_device, prefetch, single_core_map
from shards.teachers import Precision, Teacher, open_teacher
from shards.teachers.precision import choose_precision
from shards.teachers.prompts import class_embeddings, pack_floats

CALIBRATION_IMAGES = 32  # number of images on which a teacher's precision is chosen
Map = Callable[..., Iterator[Any]]


class Stopwatch:
    """Measures the time spent in the teachers alone, summed over threads."""

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._lock, self._sum = threading.Lock(), 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, action: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run `action` and add its time.

        CUDA kernels run asynchronously, so events are recorded on the stream and read at the end:
        synchronising after each batch would slow down what is being measured.
        """
        if self._cuda:
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            result = action()
            pair[1].record()
            self._events.append(pair)
            return result
        start = time.perf_counter()
        result = action()
        with self._lock:
            self._sum += time.perf_counter() - start
        return result

    def seconds(self) -> float:
        """Seconds measured so far; on a GPU this waits for all queued work."""
        if self._events:
            torch.cuda.synchronize()
            self._sum += sum(start.elapsed_time(end) / 1000 for start, end in self._events)
            self._events.clear()
        return self._sum


def channels_first(images_NHWC: np.ndarray) -> torch.Tensor:
    """Copy uint8 images (N, H, W, C) to a contiguous tensor (N, C, H, W)."""
    return torch.from_numpy(images_NHWC.transpose(0, 3, 1, 2).copy())


def embed_view(
    teachers: list[Teacher],
    arm: Arm,
    images_BCHW: torch.Tensor,
    params_BP: torch.Tensor,
    timed: Callable[[Callable[[], torch.Tensor]], torch.Tensor] = lambda action: action(),
) -> list[torch.Tensor]:
    """Each teacher's embeddings, float32 (B, D), of uint8 images (B, C, H, W) augmented by `arm`.

    `params_BP`: the augmentation's stored parameters. `timed` calls each teacher's forward pass and
    returns its result, so that it can measure the time.
    """
    pixels = arm.pixels(images_BCHW, params_BP, viewer="teacher")
    parts = []
    for teacher in teachers:
        nyquist = teacher.preprocess.nyquist(pixels.shape[-1])
        inputs = arm.normalised(teacher.preprocess(pixels), params_BP, "teacher", nyquist)
        parts.append(timed(lambda t=teacher, x=inputs: t.embed(x)))
    return parts


class Embedder:
    """The executor that computes in this process, with all teachers on one device.

    precisions: by teacher spec, those that an interrupted build has already chosen.
    Raises: ValueError for a device, data set or teacher that cannot be opened.
    """

    def __init__(self, request: Request, device: str, precisions: dict[str, Precision]) -> None:
        check_device(device)
        self.device, self.watch = device, Stopwatch(device)
        self.dataset = open_dataset(
            request.dataset, request.image_size, request.train_samples, request.test_samples
        )
        check_train_classes(self.dataset)
        self.teachers = [self._open(spec, request, precisions) for spec in request.teachers]
        self.plan = make_plan(request, self.dataset, self.teachers, device)
        self._step = images_at_once(self.plan.batch, device)

    def _open(self, spec: str, request: Request, precisions: dict[str, Precision]) -> Teacher:
        precision = request.precision
        if precision == "auto":
            precision = precisions.get(spec) or self._choose(spec)
        return open_teacher(spec, self.device, precision)

    def _choose(self, spec: str) -> Precision:
        count = min(CALIBRATION_IMAGES, self.dataset.count("train"))
        images_NHWC = self.read(Task("train", 0, 0, count)).images_NHWC
        return choose_precision(spec, self.device, channels_first(images_NHWC)).precision

    @property
    def teacher_seconds(self) -> float:
        """Seconds in the teachers, divided by the number of threads that run them in parallel."""
        workers = torch.get_num_threads() if self.plan.device == "cpu" else 1
        return self.watch.seconds() / workers

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        """Each teacher's zero-shot classifier (C, D); None without a text tower or class names."""
        classes, templates = self.plan.dataset.classes, self.plan.templates

        def one(teacher: Teacher) -> Packed | None:
            if not (teacher.has_text and have_names(classes)):
                return None
            weights_CD = class_embeddings(teacher, classes, templates)
            return Packed.model_validate(pack_floats(weights_CD))

        with single_core_map(self.device) as each:
            return tuple(each(one, self.teachers))

    def read(self, task: Task) -> Block:
        """The task's images, labels and keys."""
        block = self.dataset.read(task.split, task.start, task.stop)
        check_block(self.dataset, task.split, task.start, block)
        return block

    def shards(self, tasks: list[Task], on_images: OnImages) -> Iterator[tuple[Task, bytes]]:
        """Yield each task with its tar file, in order; reads the next images in the background."""
        with single_core_map(self.device) as each, ThreadPoolExecutor(1) as reader:
            blocks = prefetch(reader, self.read, tasks, depth=1)
            for task, block in zip(tasks, blocks, strict=True):
                columns = self.columns(task.split, block, each, on_images)
                yield task, pack(task.index, columns, block.keys)

    def columns(self, split: str, block: Block, each: Map, on_images: OnImages) -> Columns:
        """A shard's arrays by name: image, label, params, and embedding.I and norm.I of teacher I.

        `each`: a parallel map over batches; `on_images` reports progress.
        Raises: ValueError naming sample and arm where an embedding is not finite or is 0.
        """
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
        self._fill(split, block, columns, each, on_images)
        return columns

    def _fill(
        self, split: str, block: Block, columns: Columns, each: Map, on_images: OnImages
    ) -> None:
        """Compute every embedding and norm of the block, and write them into `columns`."""
        images_NCHW = channels_first(block.images_NHWC)
        params_NVP = torch.from_numpy(columns["params"])
        records = self.plan.arms[split]
        jobs = [
            (make_arm(record.arm), view, start)
            for record in records
            if needs_teacher(record)
            for view in range(record.start, record.stop)
            for start in range(0, len(images_NCHW), self._step)
        ]

        def one(job: tuple[Arm, int, int]) -> list[torch.Tensor]:
            arm, view, start = job
            at = slice(start, start + self._step)
            images_BCHW = images_NCHW[at].to(self.device)
            params_BP = params_NVP[at, view].to(self.device)
            return embed_view(self.teachers, arm, images_BCHW, params_BP, self.watch.time)

        results: list[tuple[tuple[Arm, int, int], list[torch.Tensor]]] = []
        for job, parts in zip(jobs, each(one, jobs), strict=True):
            results.append((job, parts))
            on_images(sum(len(part) for part in parts))
        # A copy from a GPU waits for all work queued before it, so all batches are queued first.
        for (arm, view, start), parts in results:
            rows = slice(start, start + len(parts[0]))
            for i, raw_BD in enumerate(parts):
                unit_BD, norm_B = self._unit(raw_BD.cpu().numpy(), block.keys[rows], arm, i)
                columns[f"embedding.{i}"][rows, view] = unit_BD
                columns[f"norm.{i}"][rows, view] = norm_B
        for record in records:
            if not needs_teacher(record):  # the teacher sees the clean image, which is view 0
                for i in range(len(self.teachers)):
                    for name in (f"embedding.{i}", f"norm.{i}"):
                        at = slice(record.start, record.stop)
                        columns[name][:, at] = columns[name][:, :1]

    @functools.cached_property
    def _test_blocks(self) -> list[Block]:
        """All test images, kept in memory because every corrupted view needs them."""
        return [self.read(task) for task in tasks_of(self.plan) if task.split == "test"]

    def corrupted(
        self, views: list[CorruptedView], on_images: OnImages
    ) -> Iterator[tuple[CorruptedView, Columns]]:
        """Yield each view with `embedding.I` of teacher I, float16 (N, D) as a shard stores it."""
        with single_core_map(self.device) as each:
            for view in views:
                parts = [self._corrupt(block, view, each, on_images) for block in self._test_blocks]
                names = [f"embedding.{i}" for i in range(len(self.teachers))]
                yield view, {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _corrupt(
        self, block: Block, view: CorruptedView, each: Map, on_images: OnImages
    ) -> Columns:
        arm = make_arm(view.arm)
        images_NCHW = channels_first(block.images_NHWC)
        params_NP = torch.from_numpy(
            arm.draw(self.plan.seed, block.keys, view.view + 1)[:, view.view].copy()
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
            on_images(sum(map(len, raws)))
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    def _unit(
        self, raw_BD: np.ndarray, keys: tuple[str, ...], arm: Arm, teacher: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normalise embeddings: (unit vectors (B, D), norms (B,)).

        Raises: ValueError naming the sample, where one is not finite or 0.
        """
        norm_B = np.linalg.norm(raw_BD, axis=1)
        good_B = np.isfinite(raw_BD).all(axis=1) & (norm_B > 0)
        if not good_B.all():
            bad = keys[int(np.argmin(good_B))]
            raise ValueError(
                f"teacher {self.teachers[teacher].spec}: the embedding of sample `{bad}` (arm "
                f"{arm.spec}) is not finite or has norm 0; its shard was not written"
            )
        return raw_BD / norm_B[:, None], norm_B
