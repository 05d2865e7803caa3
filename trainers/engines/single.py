"""Engine `single`: one process, one device."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Self

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.autocast import ForwardModule
from trainers.engines.base import Arrays, Forward
from trainers.engines.ordered_sum import OrderedSum
from trainers.engines.stepper import Stepper, extra_of, with_extra
from trainers.engines.watchdog import Watchdog


class Single:
    """One rank, which communicates with no other. Also the simplest base for a new engine."""

    def __init__(self, device: torch.device) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("engine `single` was started as several ranks; choose engine `ddp`")
        self.rank, self.ranks = 0, 1
        self.device = device
        self._watchdog = Watchdog(alone=True)

    @staticmethod
    def check_installed() -> None:
        """Nothing to check: it needs torch only."""

    @staticmethod
    def check(config: TrialConfig, device: torch.device) -> None:
        """Nothing to check: it runs every trial on every device."""

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.stop()

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        self._stepper = Stepper(optimizer, config, self.device)
        self._ordered: OrderedSum | None = None
        if config.elastic == "exact":
            self._ordered = OrderedSum(model, self._stepper.weights, self.rank, self.ranks)
        statistics = self._ordered.statistics if self._ordered is not None else None
        self._module = ForwardModule(model, statistics, config.precision)
        return self._forward

    def _forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with self.watched("forward"):
            return self._module(x_BCHW)

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        return list(index_B.chunk(count))

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with self.watched("backward"):
            self._stepper.backward(loss)
        if self._ordered is not None:
            self._ordered.take(self._stepper.loss())

    def step(self) -> torch.Tensor:
        if self._ordered is not None:
            self._stepper.record(self._ordered.reduce())
        with self.watched("step"):
            return self._stepper.step()

    def full_weights(self, write: bool = False) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def watched(self, name: str) -> AbstractContextManager[None]:
        return self._watchdog.during(name)

    def broadcast(self, value: int) -> int:
        return value

    def any_rank(self, flag: bool) -> bool:
        return flag

    def gather_state(self, extra: Arrays) -> list[Arrays]:
        return [with_extra(self._stepper.arrays(), extra)]

    def load_state(self, states: list[Arrays]) -> Arrays:
        self._stepper.load(states[0])
        return extra_of(states, 0)
