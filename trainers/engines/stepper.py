"""From gradients to a step: what all engines do alike."""

from __future__ import annotations

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import Arrays
from trainers.engines.state import load_optimizer, optimizer_arrays

Weights = list[nn.Parameter]
SCALER = ("scale", "_growth_tracker")


class Stepper:
    """Loss scaling (fp16), clipping, the optimiser's step, and the mean loss of the step.

    In fp16 a step whose gradients overflow is passed over, with less scale from then on; a loss
    that is infinite itself is handed on, and ends the trial.

    A loss counts 1 / accumulate, so gradients are those of the mean over micro-batches.
    Clipping: all gradients are multiplied by min(1, clip_norm / (their norm + 1e-6)).
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: TrialConfig, device: torch.device
    ) -> None:
        self.optimizer, self.config = optimizer, config
        self.weights: Weights = [w for group in optimizer.param_groups for w in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._losses: list[torch.Tensor] = []

    def part(self, loss: torch.Tensor) -> torch.Tensor:
        """A micro-batch's share of the step's loss, noted."""
        share = loss / self.config.accumulate
        self.note(share)
        return share

    def note(self, share: torch.Tensor) -> None:
        self._losses.append(share.detach())

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(self.part(loss)).backward()

    def step(self) -> torch.Tensor:
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return self.loss()

    def loss(self) -> torch.Tensor:
        """The sum of the shares, in order; the next step starts anew."""
        total = self._losses[0]
        for share in self._losses[1:]:
            total = total + share
        self._losses = []
        return total

    def arrays(self) -> Arrays:
        return optimizer_arrays(self.optimizer) | scaler_arrays(self.scaler)

    def load(self, arrays: Arrays) -> None:
        load_optimizer(self.optimizer, arrays)
        load_scaler(self.scaler, arrays)


def scaler_arrays(scaler: torch.amp.GradScaler) -> Arrays:
    """{scaler/NAME: float64 ()}; none where it is not in use."""
    state = scaler.state_dict()
    return {f"scaler/{name}": torch.tensor(float(state[name])) for name in SCALER if state}


def load_scaler(scaler: torch.amp.GradScaler, arrays: Arrays) -> None:
    if scaler.is_enabled():
        scale, tracker = (float(arrays[f"scaler/{name}"]) for name in SCALER)
        own = {"scale": scale, "_growth_tracker": int(tracker)}
        scaler.load_state_dict(scaler.state_dict() | own)
