"""DistributedDataParallel.

Every rank computes the loss of the whole gathered micro-batch. The backward pass of the gather
hands each rank the part of its gradient that flows through its own samples, times the number of
ranks; DDP then averages over ranks: each parameter gets the gradient of the global loss exactly
once. With `elastic: exact` there is no gathering and no DDP: see `trainers.engines.ordered_sum`.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainers.config.schema import TrialConfig
from trainers.engines import Arrays, Forward, collective
from trainers.engines.autocast import Outer, wants_global_statistics
from trainers.engines.batchnorm import GlobalStatistics
from trainers.engines.distributed import Ranks
from trainers.engines.ordered_sum import Exact
from trainers.engines.state import own_of, with_own
from trainers.engines.stepper import Stepper


class DDP(Ranks):
    name = "ddp"

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        self._model, self._config = model, config
        self._stepper = Stepper(optimizer, config, self.device)
        self._done = 0  # micro-batches of this step
        self._exact, self._reducing = None, None
        if config.elastic == "exact":
            self._exact = Exact(model, self._stepper.weights, self.rank, self.ranks)
            with self.whole(write=True):
                pass
            self._forward = Outer(model, self._exact.statistics, config.precision)
            return self._watched
        statistics = GlobalStatistics() if wants_global_statistics(config, self.ranks) else None
        # Buffers are equal anyway, or each rank's own. torch 2.15 has another name for that.
        names = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {sync: False}
        if self.device.type == "cuda":
            options["device_ids"] = [self.device.index]
        # Over 3 or more ranks DDP re-buckets after its first backward pass, and sums in another
        # order from then on: a resumed trial would differ in its last bits. This keeps the order.
        options["find_unused_parameters"] = self.ranks > 2
        outer = Outer(model, statistics, config.precision)
        with self._watchdog.during("prepare"):
            self._forward = self._reducing = DistributedDataParallel(outer, **options)
        return self._watched

    def _watched(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Gradients are reduced with those of the step's last micro-batch."""
        last = self._done + 1 == self._config.accumulate
        waits = self._reducing is not None and not last
        with self._watchdog.during("forward"), contextlib.ExitStack() as stack:
            if self._reducing is not None and waits:
                stack.enter_context(self._reducing.no_sync())
            return self._forward(x_BCHW)

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        if self._exact is not None:
            return self._exact.share(index_B, count)
        return super().micro_batches(index_B, count)

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD if self._exact is not None else super().gather(part_BD)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with self._watchdog.during("backward"):
            self._stepper.backward(loss)
        self._done += 1
        if self._exact is not None:
            self._exact.take(self._stepper.loss())

    def step(self) -> torch.Tensor:
        self._done = 0
        if self._exact is not None:
            with self._watchdog.during("step"):
                self._stepper.note(self._exact.add_up())
        return self._stepper.step()

    def states(self, own: Arrays) -> list[Arrays]:
        arrays = {} if self.rank else self._stepper.arrays()
        with self._watchdog.during("states"):
            return collective.arrays_of_all(with_own(arrays, own), self.device)

    def load_states(self, states: list[Arrays]) -> Arrays:
        self._stepper.load(states[0])
        return own_of(states, self.rank)
