"""OBJECTIVES: (student_BD, teacher_BD, config) -> scalar loss, lower is better.

Both arguments are the whole global batch: engines gather it, so that objectives with negatives
see the same pairs on any number of ranks. `teacher_BD` holds unit vectors; student vectors are
raw and each objective says what it does with their length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from shards.table import Table


class Knobs(Protocol):
    """The fields of TrialConfig that objectives read."""

    @property
    def temperature(self) -> float: ...
    @property
    def infonce_weight(self) -> float: ...


Objective = Callable[[torch.Tensor, torch.Tensor, Knobs], torch.Tensor]


def cosine(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """mean_b (1 - cos(student_b, teacher_b)), in [0, 2]; blind to length. arXiv 2603.06698."""
    return (1 - cosine_similarity(student_BD, teacher_BD, dim=1)).mean()


def infonce(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """Cross-entropy of S T' / tau against the diagonal, in nats; unit vectors; student to teacher.

    ln(B) when nothing is told apart. Source: van den Oord et al. 2018; CLIP-KD.
    """
    logits_BB = normalize(student_BD, dim=1) @ normalize(teacher_BD, dim=1).T / knobs.temperature
    return cross_entropy(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device))


def cosine_infonce(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs
) -> torch.Tensor:
    """cosine + infonce_weight * infonce (weight and temperature are assumptions; sweep them)."""
    negative = infonce(student_BD, teacher_BD, knobs)
    return cosine(student_BD, teacher_BD, knobs) + knobs.infonce_weight * negative


OBJECTIVES: Table[Objective] = Table(
    "objective", {"cosine": cosine, "cosine+infonce": cosine_infonce}
)
