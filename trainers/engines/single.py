"""One process, one device."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Self

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import Arrays, Forward
from trainers.engines.autocast import Outer
from trainers.engines.ordered_sum import Exact
from trainers.engines.state import own_of, with_own
from trainers.engines.stepper import Stepper


class Single:
    rank, ranks = 0, 1

    def __init__(self, device: torch.device) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("engine `single` was started as several ranks; choose engine `ddp`")
        self.device = device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        self._stepper = Stepper(optimizer, config, self.device)
        exact = config.elastic == "exact"
        self._exact = Exact(model, self._stepper.weights, 0, 1) if exact else None
        return Outer(model, self._exact and self._exact.statistics, config.precision)

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        return list(index_B.chunk(count))

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self._stepper.backward(loss)
        if self._exact is not None:
            self._exact.take(self._stepper.loss())

    def step(self) -> torch.Tensor:
        if self._exact is not None:
            self._stepper.note(self._exact.add_up())
        return self._stepper.step()

    def whole(self, write: bool = False) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def waiting(self, name: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def agree(self, value: int) -> int:
        return value

    def any(self, flag: bool) -> bool:
        return flag

    def states(self, own: Arrays) -> list[Arrays]:
        return [with_own(self._stepper.arrays(), own)]

    def load_states(self, states: list[Arrays]) -> Arrays:
        self._stepper.load(states[0])
        return own_of(states, 0)
