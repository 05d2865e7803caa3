"""A plugin: an objective and an arm of one's own, for examples/plugin.yaml.

Importing this module adds its entries to the project's tables. Its source is part of the identity
of the trials that use one of them.
"""

import torch
from pydantic import Field
from torch.nn.functional import normalize

from shards.arms import ARMS
from shards.arms.base import Option, arm_entry
from shards.arms.ops import HorizontalFlip, RandomCrop
from trainers.config.types import Number
from trainers.objectives import OBJECTIVES
from trainers.objectives.base import Objective, ObjectiveFields


class L1Fields(ObjectiveFields):
    l1_weight: Number = Field(default=1.0, ge=0)


def l1(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: L1Fields) -> torch.Tensor:
    """w * mean over b of the sum over d of |student - teacher|; UNIT vectors."""
    difference_BD = normalize(student_BD, dim=1) - normalize(teacher_BD, dim=1)
    return fields.l1_weight * difference_BD.abs().sum(dim=1).mean()


OBJECTIVES["l1"] = Objective(l1, L1Fields, aligns=lambda fields: fields.l1_weight > 0)
ARMS["shift_flip"] = arm_entry(
    "shift_flip",
    "moved by up to PAD pixels (default 2), then mirrored, half of the time",
    lambda pad: (RandomCrop(pad), HorizontalFlip()),
    Option("pad", 2, 1, 16, integer=True, unit="pixels"),
)
