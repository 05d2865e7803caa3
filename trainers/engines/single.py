"""One process, one device."""

from __future__ import annotations

import contextlib
import os
from typing import Self

import torch
from torch import nn

from trainers.config import TrialConfig
from trainers.engines import Arrays, Forward
from trainers.engines.state import load_optimizer, optimizer_arrays


class Single:
    rank, ranks = 0, 1
    loss: torch.Tensor | None = None

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
        self.optimizer, self.config = optimizer, config
        return model

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        return list(index_B.chunk(count))

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        (loss / self.config.accumulate).backward()
        part = loss.detach() / self.config.accumulate
        self.loss = part if self.loss is None else self.loss + part

    def step(self) -> torch.Tensor:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss, self.loss = self.loss, None
        assert loss is not None
        return loss

    def whole(self, write: bool = False) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def agree(self, value: int) -> int:
        return value

    def any(self, flag: bool) -> bool:
        return flag

    def states(self, own: Arrays) -> list[Arrays]:
        return [optimizer_arrays(self.optimizer) | {f"own/{n}": t for n, t in own.items()}]

    def load_states(self, states: list[Arrays]) -> Arrays:
        load_optimizer(self.optimizer, states[0])
        return {n[4:]: t for n, t in states[0].items() if n.startswith("own/")}
