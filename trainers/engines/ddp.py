"""Engine `ddp`: DistributedDataParallel.

Every rank computes the loss of the whole gathered micro-batch. The backward pass of the gather
gives each rank the part of the gradient that flows through its own samples, times the number of
ranks. DDP then averages over ranks, so each parameter gets the gradient of the global loss exactly
once. With `elastic: exact` nothing is gathered and DDP is not used: see
`trainers.engines.ordered_sum`.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainers.config.schema import TrialConfig
from trainers.engines import collective
from trainers.engines.autocast import ForwardModule, uses_global_statistics
from trainers.engines.base import Arrays, Forward
from trainers.engines.batchnorm import GlobalStatistics
from trainers.engines.distributed import DistributedEngine
from trainers.engines.ordered_sum import OrderedSum
from trainers.engines.stepper import Stepper, extra_of, with_extra


class DDP(DistributedEngine):
    """DistributedDataParallel, or with `elastic: exact` an OrderedSum; see the module."""

    name = "ddp"

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        self._model, self._config = model, config
        self._stepper = Stepper(optimizer, config, self.device)
        self._done = 0  # micro-batches of this step
        self._ordered: OrderedSum | None = None
        self._ddp: DistributedDataParallel | None = None
        if config.elastic == "exact":
            self._ordered = OrderedSum(model, self._stepper.weights, self.rank, self.ranks)
            with self.full_weights(write=True):  # start from the first rank's weights, as DDP does
                pass
            self._forward = ForwardModule(model, self._ordered.statistics, config.precision)
            return self._watched_forward
        statistics = GlobalStatistics() if uses_global_statistics(config, self.ranks) else None
        # DDP must not synchronise buffers: with global statistics they are equal on all ranks, and
        # without them each rank is meant to keep different ones. The option has another name since
        # torch 2.15.
        names = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {sync: False}
        if self.device.type == "cuda":
            options["device_ids"] = [self.device.index]
        # After its first backward pass DDP regroups its buckets, and over 3 or more ranks sums in
        # another order from then on: a resumed trial would differ in its last bits. With
        # find_unused_parameters it does not regroup.
        options["find_unused_parameters"] = self.ranks > 2
        module = ForwardModule(model, statistics, config.precision)
        with self._watchdog.during("prepare"):
            self._forward = self._ddp = DistributedDataParallel(module, **options)
        return self._watched_forward

    def _watched_forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """DDP reduces gradients in the backward pass of the step's last micro-batch only."""
        last = self._done + 1 == self._config.accumulate
        with self._watchdog.during("forward"), contextlib.ExitStack() as stack:
            if self._ddp is not None and not last:
                stack.enter_context(self._ddp.no_sync())
            return self._forward(x_BCHW)

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        if self._ordered is not None:
            return self._ordered.share(index_B, count)
        return super().micro_batches(index_B, count)

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        return part_BD if self._ordered is not None else super().gather(part_BD)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with self._watchdog.during("backward"):
            self._stepper.backward(loss)
        self._done += 1
        if self._ordered is not None:
            self._ordered.take(self._stepper.loss())

    def step(self) -> torch.Tensor:
        self._done = 0
        if self._ordered is not None:
            with self._watchdog.during("step"):
                self._stepper.record(self._ordered.reduce())
        return self._stepper.step()

    def gather_state(self, extra: Arrays) -> list[Arrays]:
        # The optimiser's state is the same on every rank, so the first one's is enough.
        arrays = {} if self.rank else self._stepper.arrays()
        with self._watchdog.during("gather_state"):
            return collective.gather_arrays(with_extra(arrays, extra), self.device)

    def load_state(self, states: list[Arrays]) -> Arrays:
        self._stepper.load(states[0])
        return extra_of(states, self.rank)
