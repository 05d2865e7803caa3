"""EMA: the moving average of a student's weights, which is measured in its place."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn


class Average:
    """a <- d a + (1 - d) w after each step, d = min(decay, (1 + step) / (10 + step)).

    The ramp keeps short trials from being measured near their initial weights (as in TensorFlow's
    ExponentialMovingAverage). Buffers with fractions (BatchNorm's statistics) are averaged like
    weights, counters are copied. Kept in at least float32, on the first rank's device; without
    decay (0) there is none, and `student` is the model itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.model = decay, model
        self.kept = copy.deepcopy(model) if decay else None
        for tensor in () if self.kept is None else _tensors(self.kept):
            tensor.requires_grad_(False)
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()

    @property
    def student(self) -> nn.Module:
        """What is measured in the end."""
        return self.model if self.kept is None else self.kept

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step that followed `step` others."""
        if self.kept is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = zip(_tensors(self.kept), _tensors(self.model), strict=True)
        for kept, new in pairs:
            if kept.is_floating_point():
                kept.lerp_(new.to(kept.dtype), 1 - decay)
            else:
                kept.copy_(new)


def _tensors(model: nn.Module) -> itertools.chain[torch.Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
