"""The learning rate over a trial: warm-up, then constant or cosine.

It is a pure function of the step and is set before each one, so there is no state to save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

from trainers.config.durations import in_steps
from trainers.config.schema import TrialConfig


@dataclass(frozen=True)
class Schedule:
    """A function from a step to its learning rate, see `__call__`.

    lr: the highest learning rate. kind: constant or cosine. warmup, total: numbers of steps.
    """

    lr: float
    kind: str
    warmup: int
    total: int

    @classmethod
    def of(cls, config: TrialConfig, train_samples: int) -> Schedule:
        """The schedule of a trial; `check_length` has seen that its warm-up ends before it."""
        total = config.total_steps(train_samples)
        warmup = in_steps(config.warmup, config.batch_size, train_samples)
        return cls(config.lr, config.schedule, warmup, total)

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        In the warm-up (step < warmup): lr (step + 1) / (warmup + 1).
        After it: lr (constant), or lr (1 + cos(pi t)) / 2 with t = (step - warmup) /
        (total - warmup) (cosine), which ends near 0.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.kind == "constant":
            return self.lr
        done = (step - self.warmup) / (self.total - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
