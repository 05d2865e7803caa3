"""The module that is trained: a student, or a wrapper with the outputs that its objective needs.

    supervised                    cat([embedding (D), logits (C)]) by a linear classifier
    infonce_positive: student     cat([embedding (D) of one view, of the other])

The student inside is measured and stored; the classifier is discarded.
"""

from __future__ import annotations

import torch
from torch import nn

from shards.support.rng import hash64
from trainers.config.schema import TrialConfig
from trainers.objectives import needs_second_view
from trainers.students.base import Student


class Classified(nn.Module):
    """A student and a linear layer from its embedding to C logits.

    The layer's weights are a pure function of (seed, C, D). They are drawn without touching the
    global generators, so that the student trains with the same random numbers as with other
    objectives.
    """

    def __init__(self, student: Student, dim: int, classes: int, seed: int) -> None:
        super().__init__()
        self.student = student
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(int(hash64(seed, classes)) >> 1)
            self.classifier = nn.Linear(dim, classes)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        embedding_BD = self.student(images_BCHW)
        return torch.cat([embedding_BD, self.classifier(embedding_BD)], dim=1)


class TwoViews(nn.Module):
    """A student applied to two views of each image: (B, 6, H, W) -> (B, 2 D), in one pass."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        views_BCHW = torch.cat(images_BCHW.chunk(2, dim=1))
        return torch.cat(self.student(views_BCHW).chunk(2), dim=1)


def wrap_student(config: TrialConfig, student: Student, dim: int, classes: int) -> nn.Module:
    """The module to train, which contains the student. dim: D. classes: C, for the classifier."""
    if config.objective == "supervised":
        return Classified(student, dim, classes, config.seed)
    two_views = needs_second_view(config.objective, config.objective_fields)
    return TwoViews(student) if two_views else student


def unwrap_student(module: nn.Module) -> Student:
    """The student in a module from `wrap_student`."""
    student = module.student if isinstance(module, Classified | TwoViews) else module
    assert isinstance(student, Student)
    return student
