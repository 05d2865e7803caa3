"""Base of engines with several ranks: process group, watchdog, collectives.

The backend is gloo on CPU and nccl on GPU. Rank, world size and rendezvous address come from the
environment variables that torchrun and `trainers.engines.launch` set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Self

import torch
import torch.distributed as dist
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import collective
from trainers.engines.watchdog import Watchdog, process_group_timeout

RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class DistributedEngine:
    """All of an engine except how gradients are reduced.

    name: of the engine, for messages. Every operation that waits for other ranks runs under the
    watchdog.
    """

    name: str
    _model: nn.Module
    _config: TrialConfig

    def __init__(self, device: torch.device) -> None:
        missing = [n for n in RENDEZVOUS if n not in os.environ]
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

    @staticmethod
    def check_installed() -> None:
        """Nothing to check: it needs torch only."""

    @staticmethod
    def check(config: TrialConfig, device: torch.device) -> None:
        """Raises: ValueError for a device with an index, because each rank needs another GPU."""
        if device.index is not None:
            raise ValueError(
                f"device `{device}` with engine `{config.engine}`: rank N takes GPU N of those "
                "that are visible; choose cuda, and select GPUs with CUDA_VISIBLE_DEVICES"
            )

    def __enter__(self) -> Self:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        self._watchdog.start()
        with self._watchdog.during("init_process_group"):
            dist.init_process_group(backend, timeout=process_group_timeout())
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
    def full_weights(self, write: bool = False) -> Generator[None]:
        yield
        if write:
            with self._watchdog.during("full_weights"):
                collective.copy_from_first(list(self._model.state_dict().values()))

    def watched(self, name: str) -> AbstractContextManager[None]:
        return self._watchdog.during(name)

    def broadcast(self, value: int) -> int:
        with self._watchdog.during("broadcast"):
            return collective.broadcast(value, self.device)

    def any_rank(self, flag: bool) -> bool:
        with self._watchdog.during("any_rank"):
            return collective.any_rank(flag, self.device)
