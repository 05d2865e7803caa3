"""DistributedDataParallel: gloo on CPU, nccl on GPU; ranks from the torchrun environment.

Every rank computes the loss of the whole gathered batch. The backward pass of the gather sums
what all ranks ask of a part; DDP then divides by the number of ranks: each parameter gets the
gradient of the global loss exactly once. BatchNorm statistics are each rank's own.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from trainers.config import TrialConfig
from trainers.engines import Arrays, Forward
from trainers.engines.state import load_optimizer, optimizer_arrays

TIMEOUT = timedelta(minutes=5)


class DDP:
    def __init__(self, device: torch.device) -> None:
        missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if n not in os.environ]
        if missing:
            raise ValueError(
                f"engine `ddp`: {', '.join(missing)} not set; start it with torchrun, or let "
                "`python -m trainers.trial` start the ranks"
            )
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        self.device = device

    def __enter__(self) -> Self:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
        return self

    def __exit__(self, *error: object) -> None:
        dist.destroy_process_group()

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        self.optimizer, self.config = optimizer, config
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Over 3 or more ranks DDP re-buckets after its first backward pass, and sums in another
        # order from then on: a resumed trial would differ in its last bits. This keeps the order.
        fixed = self.ranks > 2
        self.model = DistributedDataParallel(model, device_ids=ids, find_unused_parameters=fixed)
        return self.model

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        return [micro.chunk(self.ranks)[self.rank] for micro in index_B.chunk(count)]

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return torch.cat(all_gather(part_BD.contiguous()))

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        (loss / self.config.accumulate).backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def agree(self, value: int) -> int:
        box = torch.tensor(value, device=self.device)
        dist.broadcast(box, src=0)
        return int(box)

    def any(self, flag: bool) -> bool:
        box = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return bool(box)

    def states(self) -> list[Arrays]:
        return [] if self.rank else [optimizer_arrays(self.optimizer)]

    def load_states(self, states: list[Arrays]) -> None:
        load_optimizer(self.optimizer, states[0])
