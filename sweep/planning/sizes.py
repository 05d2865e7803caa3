"""How large a trial is: its student, its samples and steps, its cost in relation to others."""

from __future__ import annotations

import functools

from shards.building.estimate import size_of
from shards.datasets import open_dataset
from shards.teachers import embedding_dim, input_size
from trainers.config.lengths import check_length, samples_left
from trainers.config.schema import TrialConfig
from trainers.students import StudentSummary
from trainers.students import describe as describe_student

# Multiply-accumulates that take as long as what every trial does besides training: starting,
# reading its bank, measuring. Without it, a trial of few epochs would weigh nothing.
FIXED_MACS = 2e10
BACKWARD = 3.0  # a training step costs about three forward passes


@functools.cache
def _summary(student: str, dim: int, side: int) -> StudentSummary:
    return describe_student(student, dim, side)


def input_side(config: TrialConfig) -> int:
    """Side of the student's input images in pixels."""
    if config.input == "native":
        return size_of(config).side
    return input_size(config.teacher)


def student_of(config: TrialConfig) -> StudentSummary:
    """Parameters and multiply-accumulates of the student, without building it."""
    return _summary(config.student, embedding_dim(config.teacher), input_side(config))


def train_samples(config: TrialConfig) -> int:
    """Number of images that a trial learns from, without those held out for validation.

    With `classes`, the data set's classes are taken to be of equal size.

    Raises: ValueError with both numbers where `classes` is more than the data set has, or all
        images are held out.
    """
    size = size_of(config)
    classes = size.classes if config.classes is None else config.classes
    if classes > size.classes:
        raise ValueError(f"classes: {classes}; {config.dataset} has {size.classes}")
    return samples_left(config, size.train * classes // size.classes)


def check_lengths(trials: list[TrialConfig]) -> None:
    """Check the lengths and times of every trial, see `trainers.config.lengths.check_length`.

    Raises: ValueError, of one line, with the trial's field and what would be right.
    """
    checked: set[tuple[object, ...]] = set()
    for config in trials:
        key = (
            config.dataset, config.image_size, config.train_samples, config.test_samples,
            config.classes, config.epochs, config.duration, config.batch_size,
            config.validation_samples, config.probe_at, config.warmup, config.curve_every,
        )  # fmt: skip
        if key not in checked:
            checked.add(key)
            check_length(config, _counted_train_samples(config))


def _counted_train_samples(config: TrialConfig) -> int:
    """As `train_samples`, but with `classes` the samples of the classes are counted.

    CIFAR's classes are equally large, so it need not be downloaded for this.
    """
    estimate = train_samples(config)
    if config.classes is None or config.dataset in ("cifar10", "cifar100"):
        return estimate
    data = open_dataset(
        config.dataset, config.image_size, config.train_samples, config.test_samples
    )
    return samples_left(config, int((data.labels("train") < config.classes).sum()))


def planned_steps(config: TrialConfig) -> int:
    """Optimiser steps of a trial. Raises: as `train_samples`."""
    return config.total_steps(train_samples(config))


def samples_seen(config: TrialConfig) -> int:
    """Training samples that pass through the student, repeats counted."""
    return planned_steps(config) * config.batch_size


def training_work(config: TrialConfig) -> float:
    """Relative cost of a trial's training in multiply-accumulates."""
    return student_of(config).macs * BACKWARD * samples_seen(config)


def trial_weight(config: TrialConfig) -> float:
    """Relative cost of a trial in multiply-accumulates, for the schedule and the progress bar."""
    return FIXED_MACS + training_work(config)
