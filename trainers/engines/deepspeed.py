"""DeepSpeed's ZeRO: optimiser state (1), gradients (2) and parameters (3) split over the ranks.

The losses' scale is as in `trainers.engines.ddp`: DeepSpeed averages gradients over ranks, and
over micro-batches. Parameters stay float32; precision is autocast, as in the other engines, with
DeepSpeed told the loss scale. Nothing of its own checkpoints is used: they are pickles.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import Arrays, Forward, collective
from trainers.engines.autocast import Outer, wants_global_statistics
from trainers.engines.batchnorm import GlobalStatistics
from trainers.engines.distributed import Ranks
from trainers.engines.state import load_slots, own_of, slots, with_own
from trainers.engines.stepper import Stepper, load_scaler, scaler_arrays

MISSING = "engine `deepspeed`: DeepSpeed is not installed; pip install '.[deepspeed]'"
EVERYTHING = 10**9  # steps between DeepSpeed's own progress lines


def check_installed() -> None:
    if find_spec("deepspeed") is None:
        raise ValueError(MISSING)


def check_deepspeed(config: TrialConfig, device: torch.device) -> None:
    """Raises: ValueError where DeepSpeed cannot run this trial."""
    check_installed()
    if device.type == "cpu" and config.precision != "fp32":
        raise ValueError(
            f"precision: {config.precision} with engine `deepspeed` needs a GPU; choose fp32, or "
            "engine `ddp`"
        )


def settings(config: TrialConfig, ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Clipping is written out: its default of 1.0 changes training."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    own_scaling = config.precision == "fp16" and config.zero_stage == 0  # which then clips too
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // config.accumulate // ranks,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": 0.0 if own_scaling else config.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": EVERYTHING,
    }


class DeepSpeed(Ranks):
    name = "deepspeed"

    def __init__(self, device: torch.device) -> None:
        check_installed()
        super().__init__(device)
        self._prepared = False
        os.environ["DS_ACCELERATOR"] = "cuda" if device.type == "cuda" else "cpu"

    def __enter__(self) -> DeepSpeed:
        super().__enter__()
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        # Its collectives over shared memory need a C++ compiler, and spin for ever when a rank
        # is gone; without an entry here gloo does all of them.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        with self._watchdog.during("the first meeting"):
            deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._prepared:
            with self.whole():  # leaves the student whole
                pass
        super().__exit__(*error)

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        import deepspeed

        self._model, self._config, self._optimizer = model, config, optimizer
        self._stepper = Stepper(optimizer, config, self.device)
        self._trained = model
        if config.zero_stage == 3:  # a copy is split, the student stays whole and plain
            self._trained = copy.deepcopy(model)
            twins = dict(zip(model.parameters(), self._trained.parameters(), strict=True))
            for group in optimizer.param_groups:
                group["params"] = [twins[weight] for weight in group["params"]]
        statistics = GlobalStatistics() if wants_global_statistics(config, self.ranks) else None
        outer = Outer(self._trained, statistics, config.precision)
        self._scaler = self._stepper.scaler
        if self._scaler.is_enabled() and config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._unscale)
        with self._watchdog.during("prepare"):
            self._engine, zero, *_ = deepspeed.initialize(
                model=outer, optimizer=optimizer, config=settings(config, self.ranks)
            )
        self._zero: Any = zero  # the torch optimiser itself with ZeRO 0
        self._prepared = True
        return self._watched

    def _watched(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with self._watchdog.during("forward"):
            return self._engine(x_BCHW)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self._stepper.part(loss)
        with self._watchdog.during("backward"):
            if self._config.zero_stage and self._scaler.is_enabled():
                self._zero.override_loss_scale(self._scaler.get_scale())
                self._engine.backward(loss)
            else:
                self._engine.backward(self._scaler.scale(loss))
            if not last:
                self._engine.step()  # only counts

    def step(self) -> torch.Tensor:
        with self._watchdog.during("step"):
            self._engine.step()
        if self._config.zero_stage and self._scaler.is_enabled():
            advance(self._scaler, bool(self._zero.overflow))
        return self._stepper.loss()

    def _unscale(self, *_: Any) -> None:
        """Before a step of ZeRO 0 in fp16, of which DeepSpeed knows nothing."""
        weights, scale = self._stepper.weights, self._scaler.get_scale()
        for weight in weights:
            if weight.grad is not None:
                weight.grad.div_(scale)
        norm = nn.utils.clip_grad_norm_(weights, self._config.clip_norm or math.inf)
        overflow = not bool(torch.isfinite(norm))
        if overflow:
            for weight in weights:
                weight.grad = None  # the optimiser passes such weights over
        advance(self._scaler, overflow)

    @contextlib.contextmanager
    def whole(self, write: bool = False) -> Iterator[None]:
        if self._config.zero_stage == 3:
            self._copy(self._trained, self._model, writer=None)
        with super().whole(write):
            yield
        if write and self._config.zero_stage == 3:
            self._copy(self._model, self._trained, writer=0)
        if write and self._config.zero_stage:
            self._zero.refresh_fp32_params()

    def _copy(self, source: nn.Module, target: nn.Module, writer: int | None) -> None:
        """Parameters and buffers, with ZeRO 3's parts put together meanwhile."""
        import deepspeed

        split = list(self._trained.parameters())
        with (
            self._watchdog.during("whole"),
            torch.no_grad(),
            deepspeed.zero.GatheredParameters(split, modifier_rank=writer),
        ):
            for old, new in zip(target.parameters(), source.parameters(), strict=True):
                old.copy_(new)
            for old, new in zip(target.buffers(), source.buffers(), strict=True):
                old.copy_(new)

    def _flats(self) -> list[torch.Tensor]:
        """What this rank's optimiser steps: its partitions; all weights with ZeRO 0."""
        if self._config.zero_stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]

    def states(self, own: Arrays) -> list[Arrays]:
        arrays: Arrays = {}
        if self._config.zero_stage or not self.rank:
            arrays = slots(self._optimizer, self._flats())
        if not self.rank:
            arrays |= scaler_arrays(self._scaler)
        with self._watchdog.during("states"):
            return collective.arrays_of_all(with_own(arrays, own), self.device)

    def load_states(self, states: list[Arrays]) -> Arrays:
        mine = states[self.rank if self._config.zero_stage else 0]
        load_slots(self._optimizer, self._flats(), mine)
        load_scaler(self._scaler, states[0])
        return own_of(states, self.rank)


def advance(scaler: torch.amp.GradScaler, overflow: bool) -> None:
    """GradScaler's own rule: less after an overflow, more after many steps without one."""
    state = scaler.state_dict()
    state["_growth_tracker"] = 0 if overflow else state["_growth_tracker"] + 1
    if overflow:
        state["scale"] *= state["backoff_factor"]
    elif state["_growth_tracker"] == state["growth_interval"]:
        state["scale"] *= state["growth_factor"]
        state["_growth_tracker"] = 0
    scaler.load_state_dict(state)
