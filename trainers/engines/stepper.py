"""Stepper: from a loss to an optimiser step, and the state of optimiser and loss scaler as arrays.

All engines use it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.base import Arrays

SCALER = ("scale", "_growth_tracker")
EXTRA = "own/"  # prefix of the caller's arrays beside the engine's, part of the checkpoint format


class Stepper:
    """Loss scaling (fp16), gradient clipping, the optimiser's step, and the mean loss of the step.

    A loss is divided by `accumulate`, so gradients are those of the mean over micro-batches.
    Clipping: all gradients are multiplied by min(1, clip_norm / (their norm + 1e-6)).

    In fp16 a step whose gradients overflow is skipped, and the loss scale is lowered. A loss that
    is infinite before scaling is returned like any other and ends the trial, because a lower scale
    would not help.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: TrialConfig, device: torch.device
    ) -> None:
        self.optimizer, self.config = optimizer, config
        self.weights: list[nn.Parameter] = [
            weight for group in optimizer.param_groups for weight in group["params"]
        ]
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._losses: list[torch.Tensor] = []

    def share(self, loss: torch.Tensor) -> torch.Tensor:
        """A micro-batch's part of the step's mean loss, loss / accumulate; it is also recorded."""
        share = loss / self.config.accumulate
        self.record(share)
        return share

    def record(self, share: torch.Tensor) -> None:
        """Add a part of the step's mean loss to those that `loss` sums."""
        self._losses.append(share.detach())

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of loss / accumulate, times the loss scale in fp16."""
        self.scaler.scale(self.share(loss)).backward()

    def step(self) -> torch.Tensor:
        """Unscale, clip and step; returns the mean loss over the step's micro-batches."""
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return self.loss()

    def loss(self) -> torch.Tensor:
        """The sum of the recorded shares, in order; it also clears them."""
        total = self._losses[0]
        for share in self._losses[1:]:
            total = total + share
        self._losses = []
        return total

    def arrays(self) -> Arrays:
        """The state of optimiser and loss scaler, by name."""
        return optimizer_arrays(self.optimizer) | scaler_arrays(self.scaler)

    def load(self, arrays: Arrays) -> None:
        """Restore what `arrays` returned."""
        load_optimizer(self.optimizer, arrays)
        load_scaler(self.scaler, arrays)


# ---- the optimiser's state ----


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> Arrays:
    """{optimizer/INDEX/SLOT: tensor}: the state of each weight, in the order of `param_groups`."""
    return slots(optimizer, _weights(optimizer))


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Restore what `optimizer_arrays` returned."""
    load_slots(optimizer, _weights(optimizer), arrays)


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def slots(optimizer: torch.optim.Optimizer, weights: Iterable[torch.Tensor]) -> Arrays:
    """`optimizer_arrays` of the given weights (with ZeRO these are flat partitions)."""
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, weight in enumerate(weights)
        for name, value in optimizer.state.get(weight, {}).items()
    }


def load_slots(
    optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], arrays: Arrays
) -> None:
    """Restore what `slots` returned."""
    for weight in weights:
        optimizer.state.pop(weight, None)
    for name, tensor in arrays.items():
        if not name.startswith("optimizer/"):
            continue
        _, index, slot = name.split("/")
        weight = weights[int(index)]
        # A tensor gets its weight's memory layout, because the order of additions depends on the
        # layout and a resumed trial must give the same bits. A step counter (no dimensions) stays
        # on the CPU, where torch's optimisers keep it.
        target = torch.empty_like(weight, dtype=tensor.dtype) if tensor.dim() else tensor.clone()
        optimizer.state[weight][slot] = target.copy_(tensor)


# ---- the loss scaler's state, and the caller's ----


def scaler_arrays(scaler: torch.amp.GradScaler) -> Arrays:
    """{scaler/NAME: float32 ()}; empty where the scaler is not in use."""
    state = scaler.state_dict()
    return {f"scaler/{name}": torch.tensor(float(state[name])) for name in SCALER if state}


def load_scaler(scaler: torch.amp.GradScaler, arrays: Arrays) -> None:
    """Restore what `scaler_arrays` returned."""
    if scaler.is_enabled():
        scale, tracker = (float(arrays[f"scaler/{name}"]) for name in SCALER)
        stored = {"scale": scale, "_growth_tracker": int(tracker)}
        scaler.load_state_dict(scaler.state_dict() | stored)


def with_extra(arrays: Arrays, extra: Arrays) -> Arrays:
    """The engine's arrays and, with the prefix `own/`, the caller's."""
    return arrays | {EXTRA + name: tensor for name, tensor in extra.items()}


def extra_of(states: list[Arrays], rank: int) -> Arrays:
    """A rank's extra arrays, or the first rank's where the checkpoint is of fewer ranks."""
    state = states[rank] if rank < len(states) else states[0]
    return {n.removeprefix(EXTRA): t for n, t in state.items() if n.startswith(EXTRA)}
