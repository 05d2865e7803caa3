"""One process, one device."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

import torch
from torch import nn


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

    def prepare(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return model

    def agree(self, value: int) -> int:
        return value

    def share(self, index_B: torch.Tensor) -> torch.Tensor:
        return index_B

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD
