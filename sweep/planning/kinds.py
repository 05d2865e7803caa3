"""Trials that differ in their seed alone are one kind: they cost the same, and are planned once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from shards.arms import make_arm
from shards.building.estimate import size_of
from shards.teachers import embedding_dim
from sweep.planning.sizes import input_side, planned_steps, student_of, train_samples
from trainers.config.durations import in_steps
from trainers.config.schema import TrialConfig
from trainers.objectives import needs_second_view
from trainers.students.teacher_pca import has_no_network

FIELDS = tuple(TrialConfig.model_fields.keys() - {"seed", "objective_fields"})
IN_FIELDS = itemgetter(*FIELDS)
MOST_TRAIN, MOST_TEST = 2000, 500  # images that the probes are timed on; more are in proportion


@dataclass(frozen=True)
class Kind:
    """What the trials of one kind do, in numbers.

    student, arms, measuring, curve, teacher: keys of a `Calibration`. train, test: images. seen:
    training samples that pass through the student. observations: rows of its curves, each of
    `curve_images` images. measured: how often all probes are run, at the end included.
    """

    config: TrialConfig
    student: str
    arm: str
    test_arms: tuple[str, ...]
    measuring: str
    curve: str
    teacher: str
    train: int
    test: int
    seen: int
    observations: int
    curve_images: int
    measured: int


def alike(trials: Iterable[TrialConfig]) -> dict[TrialConfig, list[TrialConfig]]:
    """{first trial of a kind: all trials of that kind}."""
    found: dict[Any, list[TrialConfig]] = {}
    for config in trials:
        found.setdefault(_without_seed(config), []).append(config)
    return {group[0]: group for group in found.values()}


def _without_seed(config: TrialConfig) -> Any:
    # Faster than `getattr` for each field, which counts with 10,000 trials.
    return (*IN_FIELDS(config.__dict__), *sorted(config.objective_fields.items()))


def kinds_of(trials: Sequence[TrialConfig]) -> list[tuple[Kind, list[TrialConfig]]]:
    """The kinds of trials, and the trials of each. Raises: as `kind_of`."""
    return [(kind_of(first), members) for first, members in alike(trials).items()]


def kind_of(config: TrialConfig) -> Kind:
    """The kind of a trial. Raises: as `train_samples`."""
    size, dim, side = size_of(config), embedding_dim(config.teacher), input_side(config)
    train = train_samples(config)
    test = size.test if config.classes is None else size.test * config.classes // size.classes
    images = min(config.curve_samples, train) + min(config.curve_samples, test)
    steps = planned_steps(config)
    every = 0
    if config.curve_every and config.trains:
        every = max(1, in_steps(config.curve_every, config.batch_size, train))
    # Most of what probes take on few images is fixed, so those say nothing about more.
    timed_train, timed_test = timed_images(train, test)
    views = 2 if needs_second_view(config.objective, config.objective_fields) else 1
    classes = config.classes or size.classes
    test_arms = tuple(spec for spec in config.test_arms if not has_no_network(config.student))
    return Kind(
        config=config,
        student=f"{config.student} {side} px to {dim}, batch {config.batch_size}, "
        f"{config.precision}, {config.threads} threads",
        arm=arm_key(config.arm, size.side, side),
        test_arms=tuple(arm_key(spec, size.side, side) for spec in test_arms),
        measuring=f"{' '.join(config.probes)} under {' '.join(config.test_arms)} x "
        f"{config.test_views}, adapted to {' '.join(config.adapt_arms)}; {classes} classes of {dim}"
        f"{' teacher_pca' if has_no_network(config.student) else ''}, {config.threads} threads, "
        f"{timed_train} train and {timed_test} test images",
        curve=f"{min(config.curve_samples, train)} of {dim}",
        teacher=f"{config.teacher} from {size.side} px",
        train=train,
        test=test,
        seen=steps * config.batch_size * views,
        observations=1 + -(-steps // every) if every else 0,
        curve_images=images,
        measured=1 + len(config.probed_steps(train)),
    )


def timed_images(train: int, test: int) -> tuple[int, int]:
    """How many of so many train and test images the probes are timed on."""
    return min(train, MOST_TRAIN), min(test, MOST_TEST)


def arm_key(spec: str, stored: int, side: int) -> str:
    """Of an arm, for images of `stored` pixels a side seen at `side` pixels."""
    return f"{make_arm(spec).spec} {stored} to {side} px"


def macs_of(kind: Kind) -> int:
    """Multiply-accumulates of one image through the student."""
    return student_of(kind.config).macs
