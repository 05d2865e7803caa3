"""What engines of several ranks have in common: gloo on CPU, nccl on GPU.

Ranks, their number and where to meet come from the environment that torchrun and `launch` set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Self

import torch
import torch.distributed as dist
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import collective
from trainers.engines.watchdog import Watchdog, group_timeout

MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """Everything but how gradients meet. `name` is the engine's, for messages."""

    name: str
    _model: nn.Module
    _config: TrialConfig

    def __init__(self, device: torch.device) -> None:
        missing = [n for n in MEETING if n not in os.environ]
        if missing:
            raise ValueError(
                f"engine `{self.name}`: {', '.join(missing)} not set; start it with torchrun, or "
                "let `python -m trainers.trial` start the ranks"
            )
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        self.device = device
        self._watchdog = Watchdog()

    def __enter__(self) -> Self:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        self._watchdog.start()
        with self._watchdog.during("the first meeting"):
            dist.init_process_group(backend, timeout=group_timeout())
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.stop()
        dist.destroy_process_group()

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        return [micro.chunk(self.ranks)[self.rank] for micro in index_B.chunk(count)]

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        with self._watchdog.during("gather"):
            return collective.gather(part_BD)

    @contextlib.contextmanager
    def whole(self, write: bool = False) -> Iterator[None]:
        yield
        if write:
            with self._watchdog.during("whole"):
                collective.copy_from_first(list(self._model.state_dict().values()))

    def waiting(self, name: str) -> AbstractContextManager[None]:
        return self._watchdog.during(name)

    def agree(self, value: int) -> int:
        with self._watchdog.during("agree"):
            return collective.agree(value, self.device)

    def any(self, flag: bool) -> bool:
        with self._watchdog.during("any"):
            return collective.any_of(flag, self.device)
