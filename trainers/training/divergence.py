"""A training that has diverged: a loss, a weight or an output of the student is not finite.

A loss is computed before its step changes the weights. So the losses say nothing of what the last
step has done, and the weights are checked before they are measured or saved. Finite weights may
still be so large that the student's outputs overflow, which is seen where it is measured.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class DivergedError(RuntimeError):
    """The training has diverged. The trial is not retried, because training is deterministic."""


class NotFiniteError(ValueError):
    """An output of the student is NaN or infinite, so it cannot be measured."""


def diverged(step: int, epoch: int, what: str) -> DivergedError:
    """The error of a trial in which `what` is not finite, at a step of an epoch, both from 1."""
    return DivergedError(f"diverged at step {step} (epoch {epoch}): {what}; try a smaller lr")


def all_finite(modules: Iterable[nn.Module]) -> torch.Tensor:
    """Whether all weights and floating-point buffers are finite: a scalar on their device.

    Buffers that are no part of the state, such as masks with infinities, are not looked at.
    """
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return torch.stack(finite).all()
