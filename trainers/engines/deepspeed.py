"""Engine `deepspeed`: ZeRO shards optimiser state (1), gradients (2) and parameters (3).

Losses are scaled as in `trainers.engines.ddp`: DeepSpeed too averages gradients over ranks, and
over micro-batches. Parameters stay float32, and precision is autocast as in the other engines, so
that engines differ in nothing but where tensors are stored. DeepSpeed's own checkpoints are not
used because they are pickles.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines import collective
from trainers.engines.autocast import ForwardModule, uses_global_statistics
from trainers.engines.base import Arrays, Forward
from trainers.engines.batchnorm import GlobalStatistics
from trainers.engines.distributed import DistributedEngine
from trainers.engines.stepper import (
    Stepper,
    extra_of,
    load_scaler,
    load_slots,
    scaler_arrays,
    slots,
    with_extra,
)

NEVER = 10**9  # steps between DeepSpeed's progress lines, so that there are none


def settings(config: TrialConfig, ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a trial.

    gradient_clipping is always given, because DeepSpeed's default of 1.0 would change training.
    """
    zero: dict[str, Any] = {"stage": config.zero_stage}
    # With ZeRO 0 in fp16 this engine unscales the gradients, and must clip after that: `_unscale`.
    engine_clips = config.precision == "fp16" and config.zero_stage == 0
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // config.accumulate // ranks,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": 0.0 if engine_clips else config.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }


class DeepSpeed(DistributedEngine):
    """ZeRO stage 0 to 3 with the trial's torch optimiser; see the module."""

    name = "deepspeed"

    @staticmethod
    def check_installed() -> None:
        """Raises: ValueError with the install command where DeepSpeed is missing."""
        if find_spec("deepspeed") is None:
            raise ValueError(
                "engine `deepspeed`: DeepSpeed is not installed; pip install '.[deepspeed]'"
            )

    @staticmethod
    def check(config: TrialConfig, device: torch.device) -> None:
        """Raises: ValueError for half precision on a CPU, or for a device with an index."""
        if device.type == "cpu" and config.precision != "fp32":
            raise ValueError(
                f"precision: {config.precision} with engine `deepspeed` needs a GPU; choose fp32, "
                "or engine `ddp`"
            )
        DistributedEngine.check(config, device)

    def __init__(self, device: torch.device) -> None:
        self.check_installed()
        super().__init__(device)
        self._prepared = False
        os.environ["DS_ACCELERATOR"] = "cuda" if device.type == "cuda" else "cpu"

    def __enter__(self) -> DeepSpeed:
        super().__enter__()
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        # DeepSpeed's shared-memory collectives need a C++ compiler, and wait for ever when a rank
        # has died. With an empty table of ops it uses gloo for all collectives.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        with self._watchdog.during("init_process_group"):
            deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None and self._prepared:
            with self.full_weights():  # copies the trained weights into the caller's model
                pass
        super().__exit__(*error)

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        import deepspeed

        self._model, self._config, self._optimizer = model, config, optimizer
        self._stepper = Stepper(optimizer, config, self.device)
        self._trained = model
        if config.zero_stage == 3:
            # ZeRO 3 replaces a model's parameters by shards. It gets a copy, so that the caller's
            # student keeps complete parameters to be saved and measured.
            self._trained = copy.deepcopy(model)
            twins = dict(zip(model.parameters(), self._trained.parameters(), strict=True))
            for group in optimizer.param_groups:
                group["params"] = [twins[weight] for weight in group["params"]]
        statistics = GlobalStatistics() if uses_global_statistics(config, self.ranks) else None
        module = ForwardModule(self._trained, statistics, config.precision)
        self._scaler = self._stepper.scaler
        if self._scaler.is_enabled() and config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._unscale)
        with self._watchdog.during("prepare"):
            self._engine, zero, *_ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=settings(config, self.ranks)
            )
        self._zero: Any = zero  # DeepSpeed's optimiser; with ZeRO 0 the torch optimiser itself
        self._prepared = True
        return self._watched_forward

    def _watched_forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with self._watchdog.during("forward"):
            return self._engine(x_BCHW)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self._stepper.share(loss)
        with self._watchdog.during("backward"):
            if self._config.zero_stage and self._scaler.is_enabled():
                self._zero.override_loss_scale(self._scaler.get_scale())
                self._engine.backward(loss)
            else:
                self._engine.backward(self._scaler.scale(loss))
            if not last:
                self._engine.step()  # between micro-batches it only counts them

    def step(self) -> torch.Tensor:
        with self._watchdog.during("step"):
            self._engine.step()
        if self._config.zero_stage and self._scaler.is_enabled():
            update_scale(self._scaler, bool(self._zero.overflow))
        return self._stepper.loss()

    def _unscale(self, *_: Any) -> None:
        """Unscale and clip before a step of ZeRO 0 in fp16.

        DeepSpeed has no loss scaling for float32 parameters there, so gradients reach the
        optimiser scaled.
        """
        weights, scale = self._stepper.weights, self._scaler.get_scale()
        for weight in weights:
            if weight.grad is not None:
                weight.grad.div_(scale)
        norm = nn.utils.clip_grad_norm_(weights, self._config.clip_norm or math.inf)
        overflow = not bool(torch.isfinite(norm))
        if overflow:
            for weight in weights:
                weight.grad = None  # the optimiser skips weights without a gradient
        update_scale(self._scaler, overflow)

    @contextlib.contextmanager
    def full_weights(self, write: bool = False) -> Generator[None]:
        if self._config.zero_stage == 3:
            self._copy(self._trained, self._model, writer=None)
        with super().full_weights(write):
            yield
        if write and self._config.zero_stage == 3:
            self._copy(self._model, self._trained, writer=0)
        if write and self._config.zero_stage:
            self._zero.refresh_fp32_params()

    def _copy(self, source: nn.Module, target: nn.Module, writer: int | None) -> None:
        """Copy parameters and buffers while ZeRO 3's shards are gathered.

        writer: the rank whose changes to the gathered parameters are kept, None for none.
        """
        import deepspeed

        sharded = list(self._trained.parameters())
        with (
            self._watchdog.during("full_weights"),
            torch.no_grad(),
            deepspeed.zero.GatheredParameters(sharded, modifier_rank=writer),
        ):
            for to, value in zip(target.parameters(), source.parameters(), strict=True):
                to.copy_(value)
            for to, value in zip(target.buffers(), source.buffers(), strict=True):
                to.copy_(value)

    def _stepped(self) -> list[torch.Tensor]:
        """The tensors that this rank's optimiser updates: its partitions, or with ZeRO 0 all
        weights.
        """
        if self._config.zero_stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]

    def gather_state(self, extra: Arrays) -> list[Arrays]:
        arrays: Arrays = {}
        if self._config.zero_stage or not self.rank:
            arrays = slots(self._optimizer, self._stepped())
        if not self.rank:
            arrays |= scaler_arrays(self._scaler)
        with self._watchdog.during("gather_state"):
            return collective.gather_arrays(with_extra(arrays, extra), self.device)

    def load_state(self, states: list[Arrays]) -> Arrays:
        mine = states[self.rank if self._config.zero_stage else 0]
        load_slots(self._optimizer, self._stepped(), mine)
        load_scaler(self._scaler, states[0])
        return extra_of(states, self.rank)


def update_scale(scaler: torch.amp.GradScaler, overflow: bool) -> None:
    """The rule of GradScaler.update: lower after an overflow, higher after many steps without.

    Not GradScaler.update itself, which takes the overflow from gradients it has unscaled.
    """
    state = scaler.state_dict()
    state["_growth_tracker"] = 0 if overflow else state["_growth_tracker"] + 1
    if overflow:
        state["scale"] *= state["backoff_factor"]
    elif state["_growth_tracker"] == state["growth_interval"]:
        state["scale"] *= state["growth_factor"]
        state["_growth_tracker"] = 0
    scaler.load_state_dict(state)
