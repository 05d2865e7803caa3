"""How large a trial is: its student, its training samples, its steps, its relative cost."""

from __future__ import annotations

import functools

from shards.building.estimate import size_of
from shards.teachers import embedding_dim, input_size
from trainers.config.schema import TrialConfig
from trainers.students import StudentSummary
from trainers.students import describe as describe_student


@functools.cache
def _summary(student: str, dim: int, side: int) -> StudentSummary:
    return describe_student(student, dim, side)


def input_side(config: TrialConfig) -> int:
    """Pixels a side of what the student sees."""
    if config.input == "native":
        return size_of(config).side
    return input_size(config.teacher)


def student_of(config: TrialConfig) -> StudentSummary:
    return _summary(config.student, embedding_dim(config.teacher), input_side(config))


def train_samples(config: TrialConfig) -> int:
    """Images that a trial learns from; of a subset of classes, as if all were of one size.

    Raises: ValueError with both numbers where it asks for more classes than there are.
    """
    size = size_of(config)
    shown = size.classes if config.classes is None else config.classes
    if shown > size.classes:
        raise ValueError(f"classes: {shown} asked of {config.dataset}, which has {size.classes}")
    return size.train * shown // size.classes


def planned_steps(config: TrialConfig) -> int:
    """Optimiser steps of a trial. Raises: those of `train_samples`."""
    return config.total_steps(train_samples(config))


def samples_seen(config: TrialConfig) -> int:
    return planned_steps(config) * config.batch_size


def trial_weight(config: TrialConfig) -> float:
    """Relative cost of a trial: multiply-accumulates, and a constant for what is fixed."""
    return 2e10 + student_of(config).macs * 3.0 * samples_seen(config)
