"""Short measurements on this machine of what a plan needs and no calibration has."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from shards.arms import make_arm
from shards.bank.splits import Split
from shards.building.estimate import size_of, untrained_teacher
from shards.measures.infonce import uniformity
from shards.measures.spectrum import centred_eigenvalues
from shards.support.memory import keeping_freed_memory
from shards.support.progress import Progress
from shards.teachers import embedding_dim, input_size
from shards.teachers.preprocess import CPU_BATCH, Preprocess
from sweep.planning.calibration import (
    Calibration,
    Measuring,
    StudentSpeed,
    machine,
    this_device,
    today,
)
from sweep.planning.kinds import Kind, arm_key, macs_of, timed_images
from sweep.planning.sizes import input_side
from trainers.config.schema import TrialConfig
from trainers.probes.features import FeatureBank, Floats, SplitName, Subject, unit
from trainers.probes.measure import measure
from trainers.probes.observer import ridge_accuracy
from trainers.students import build_student
from trainers.students.teacher_pca import has_no_network
from trainers.training.data import Data
from trainers.training.eager import eager

LEAST = 0.3  # seconds over which a mean is taken


def missing(kinds: Iterable[Kind], known: Calibration) -> list[str]:
    """What a plan of `kinds` needs and `known` lacks."""
    found: dict[str, None] = {}
    for kind in kinds:
        own_network = not has_no_network(kind.config.student)
        for name, keys in (
            ("students", (kind.student,) if own_network else ()),
            ("arms", (kind.arm, *kind.test_arms)),
            ("measuring", (kind.measuring,)),
            ("curves", (kind.curve,) if kind.observations else ()),
            ("teachers", (kind.teacher,)),
        ):
            have = getattr(known, name)
            found |= {f"{name}: {key}": None for key in keys if key not in have}
    return list(found)


@keeping_freed_memory()  # as trials do
def calibrate(kinds: list[Kind], known: Calibration) -> Calibration:
    """`known` with what the kinds need besides, measured now: about a second for each entry."""
    device = torch.device("cpu" if this_device() == "cpu" else "cuda")
    students: dict[str, StudentSpeed] = {}
    arms: dict[str, float] = {}
    measuring: dict[str, Measuring] = {}
    curves: dict[str, float] = {}
    teachers: dict[str, float] = {}
    with Progress("calibrate", len(kinds)) as bar:
        for number, kind in enumerate(kinds):
            config = kind.config
            for spec in (config.arm, *(config.test_arms if kind.test_arms else ())):
                key = arm_key(spec, size_of(config).side, input_side(config))
                if key not in known.arms and key not in arms:
                    arms[key] = arm_seconds(config, spec, device)
            own_network = not has_no_network(config.student)
            if own_network and kind.student not in {**known.students, **students}:
                students[kind.student] = student_speed(kind, device)
            if kind.measuring not in {**known.measuring, **measuring}:
                measuring[kind.measuring] = measuring_of(kind)
            if kind.observations and kind.curve not in {**known.curves, **curves}:
                curves[kind.curve] = curve_seconds(kind)
            if kind.teacher not in known.teachers and kind.teacher not in teachers:
                teachers[kind.teacher] = teacher_seconds(config, device)
            bar.update(number + 1)
    new = Calibration(
        device=this_device(), machine=machine(), date=today(), students=students, arms=arms,
        measuring=measuring, curves=curves, teachers=teachers,
    )  # fmt: skip
    return known.joined(new)


def student_speed(kind: Kind, device: torch.device) -> StudentSpeed:
    """Of one student, with Adam, in its own batches and precision."""
    config, dim, side = kind.config, embedding_dim(kind.config.teacher), input_side(kind.config)
    # On a CPU large images cost the same in small batches, and less memory.
    small = device.type == "cpu" and side > 64
    batch = min(config.batch_size, 4 if small else config.batch_size)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model = build_student(config.student, dim, side, 0).to(device)
        model = model.to(memory_format=torch.channels_last)
        images_BCHW = torch.zeros(batch, 3, side, side, device=device)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        train = mean_seconds(training_step(model, images_BCHW, half), device) / batch
        model.eval()
        images_BCHW = images_BCHW[:100]

        def embed() -> None:
            with torch.inference_mode():
                model(images_BCHW)

        embedding = mean_seconds(embed, device) / len(images_BCHW)
    finally:
        torch.set_num_threads(before)
    return StudentSpeed(macs=macs_of(kind), train=train, embed=embedding)


@functools.cache
@keeping_freed_memory()
def seconds_per_sample(student: str, dim: int, side: int, threads: int) -> float:
    """Seconds that one training sample takes on the CPU: forward, backward and Adam.

    The student maps images of `side` x `side` pixels to `dim` numbers.
    """
    batch = 32 if side <= 64 else 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = build_student(student, dim, side, 0).to(memory_format=torch.channels_last)
        step = training_step(model, torch.zeros(batch, 3, side, side))
        return mean_seconds(step, torch.device("cpu")) / batch
    finally:
        torch.set_num_threads(before)


def training_step(
    model: torch.nn.Module, images_BCHW: torch.Tensor, half: torch.dtype | None = None
) -> Callable[[], None]:
    """A call of it is one step: forward, backward and Adam. half: of mixed precision."""
    adam = eager(torch.optim.Adam)(model.parameters(), lr=1e-3)

    def step() -> None:
        with torch.autocast(images_BCHW.device.type, half, enabled=half is not None):
            loss = model(images_BCHW).float().square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad()

    return step


def arm_seconds(config: TrialConfig, spec: str, device: torch.device) -> float:
    """Of drawing, augmenting and preprocessing one image."""
    stored, count = size_of(config).side, 64
    arm = make_arm(spec)
    if arm.test_only:  # images that are stored as they are
        arm = make_arm("clean")
    rng = np.random.default_rng(0)
    keys = tuple(f"{i}" for i in range(count))
    preprocess = Preprocess(size=input_side(config), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    split = Split(
        keys=keys,
        images_NHWC=rng.integers(0, 256, (count, stored, stored, 3), dtype=np.uint8),
        labels_N=np.zeros(count, np.int64),
        params_NVP=arm.draw(0, keys, 1),
        embedding_NVD=np.ones((count, 1, 1), np.float16),
        norm_NV=np.ones((count, 1), np.float32),
    )
    data = Data(split, arm, preprocess, device)

    def view() -> None:
        arm.draw(0, keys, 1)
        for _ in data.view(0, count):
            pass

    return mean_seconds(view, device) / count


@dataclass
class _Counting:
    """A subject that returns made embeddings and counts how often they were used."""

    made: dict[SplitName, Floats]
    has_model: bool
    views: dict[SplitName, int] = field(default_factory=lambda: {"train": 0, "test": 0})

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats | None:
        if not self.has_model:
            return None
        self.views[split] += 1
        return self.made[split]

    def penultimate(self, split: SplitName) -> Floats | None:
        return self.embed(split)

    def recalibrated(self, arm: str) -> Subject | None:
        self.embed("train")
        return self if self.has_model else None


def measuring_of(kind: Kind) -> Measuring:
    """Times the trial's probes on made embeddings of ten classes or more, as teachers' are."""
    config, dim = kind.config, embedding_dim(kind.config.teacher)
    train, test = timed_images(kind.train, kind.test)
    classes = min(config.classes or size_of(config).classes, train // 2)
    rng = np.random.default_rng(0)
    centres_CD = rng.standard_normal((classes, dim))
    decay_D = np.arange(1, dim + 1) ** -0.5

    def made(count: int) -> tuple[Floats, np.ndarray]:
        labels_N = np.arange(count) % classes
        noise_ND = rng.standard_normal((count, dim))
        return unit((centres_CD[labels_N] + 2 * noise_ND) * decay_D), labels_N

    (train_ND, train_labels_N), (test_ND, test_labels_N) = made(train), made(test)
    subject = _Counting({"train": train_ND, "test": test_ND}, not has_no_network(config.student))
    bank = FeatureBank(
        train_ND, train_labels_N, test_ND, test_labels_N, test_ND[::-1], train_ND[::-1], subject,
        text_CD=unit(centres_CD), classes=tuple(f"class {i}" for i in range(classes)),
        test_arms=config.test_arms, draws=config.test_views, trained_on=config.arm,
        adapt_arms=config.adapt_arms,
    )  # fmt: skip
    start = time.process_time()
    measure(bank, config, "test")
    seconds = (time.process_time() - start) / config.threads
    return Measuring(
        train=train, test=test, seconds=seconds,
        train_views=1 + subject.views["train"], test_views=1 + subject.views["test"],
    )  # fmt: skip


def curve_seconds(kind: Kind) -> float:
    """Of the arithmetic of one observation."""
    count, dim = min(kind.config.curve_samples, kind.train), embedding_dim(kind.config.teacher)
    rows_ND = unit(np.random.default_rng(0).standard_normal((count, dim)))
    labels_N = np.arange(count) % min(10, count)

    def observe() -> None:
        with threadpool_limits(kind.config.threads):
            centred_eigenvalues(rows_ND)
            uniformity(rows_ND)
            ridge_accuracy(rows_ND, labels_N, rows_ND, labels_N)

    return mean_seconds(observe, torch.device("cpu"))


def teacher_seconds(config: TrialConfig, device: torch.device) -> float:
    """Of one image through preprocessing and the teacher: on one core, or on the GPU in bf16."""
    on_cpu, side = device.type == "cpu", size_of(config).side
    teacher = untrained_teacher(config.teacher, str(device), "fp32" if on_cpu else "bf16")
    batch = CPU_BATCH if on_cpu else 256
    if input_size(config.teacher) <= 64:
        batch = max(batch, 64)
    images_BCHW = torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return mean_seconds(lambda: _embed(teacher, images_BCHW), device) / batch
    finally:
        torch.set_num_threads(before)


def _embed(teacher: object, images_BCHW: torch.Tensor) -> None:
    teacher.embed(teacher.preprocess(images_BCHW)).cpu()  # type: ignore[attr-defined]


def mean_seconds(action: Callable[[], None], device: torch.device) -> float:
    """Mean seconds of a call after a first one: CPU seconds of a thread, or of a GPU's clock.

    CPU seconds, for how busy a machine is in these moments says little of the hours that follow.
    """
    threads = torch.get_num_threads()

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / threads

    action()
    start, calls, rounds = now(), 0, 1
    while (taken := now() - start) < LEAST:
        for _ in range(rounds):
            action()
        calls += rounds
        rounds = min(64, 2 * rounds)
    return taken / max(1, calls)
