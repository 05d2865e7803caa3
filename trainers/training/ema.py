"""Exponential moving average of a student's weights, which is measured in place of the student."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn


class MovingAverage:
    """a <- d a + (1 - d) w after each step, with d = min(decay, (1 + step) / (10 + step)).

    The decay is lower in the first steps, so that the average of a short trial is not dominated by
    its initial weights (as in TensorFlow's ExponentialMovingAverage). Floating-point buffers
    (BatchNorm's statistics) are averaged like weights, integer ones (counters) are copied. The
    average is stored in float32 or wider, on the model's device. With decay 0 there is no average:
    `averaged` is None and `student` is the model itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.model = decay, model
        self.averaged = copy.deepcopy(model) if decay else None
        for tensor in () if self.averaged is None else _tensors(self.averaged):
            tensor.requires_grad_(False)
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = tensor.data.float()

    @property
    def student(self) -> nn.Module:
        """The module that is measured."""
        return self.model if self.averaged is None else self.averaged

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after a step; `step` others came before it."""
        if self.averaged is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = zip(_tensors(self.averaged), _tensors(self.model), strict=True)
        for average, new in pairs:
            if average.is_floating_point():
                average.lerp_(new.to(average.dtype), 1 - decay)
            else:
                average.copy_(new)


def _tensors(model: nn.Module) -> itertools.chain[torch.Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
