"""ENGINES: where a trial's ranks run. The only place that knows ranks.

An engine is entered once in each rank's process and left at the end. Models, objectives and
probes never see it: the loop asks it to prepare the model and to gather the batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, Self

import torch
from torch import nn

from shards.support.registry import Table
from trainers.config.schema import TrialConfig

Forward = Callable[[torch.Tensor], torch.Tensor]
Arrays = dict[str, torch.Tensor]


class Engine(Protocol):
    """One rank of a trial."""

    rank: int
    ranks: int
    device: torch.device

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        """The forward function of a trial, called once, before any state is restored.

        It applies the trial's precision. The engine may wrap the model and the optimiser; the
        model stays the one whose `state_dict` is the student, the optimiser the one whose
        `param_groups` hold the learning rate. Copies of the model are made before this.
        """
        ...

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        """What this rank computes of a global batch of indices that has `count` micro-batches.

        Its equal part of each; with `elastic: exact` its share of them, whole. So the number of
        forward passes in a step is the length of this list, not `count`.
        """
        ...

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        """All ranks' parts as the micro-batch, differentiable, in the order of the batch."""
        ...

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of the mean over micro-batches; `last`: of this step."""
        ...

    def step(self) -> torch.Tensor:
        """Unscale, clip as the trial says, step the optimiser, and set gradients to zero.

        Returns the mean loss over the step's micro-batches, detached, the same on every rank.
        """
        ...

    def whole(self, write: bool = False) -> AbstractContextManager[None]:
        """Within it the model's tensors are whole on every rank; collective.

        Needed around every use of the weights outside the forward function: `state_dict`, an
        average, a measurement; with `write` what the first rank wrote into them stays.
        """
        ...

    def waiting(self, name: str) -> AbstractContextManager[None]:
        """Around what waits for the device, and so perhaps for the other ranks."""
        ...

    def agree(self, value: int) -> int:
        """The first rank's value, on every rank."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether some rank's flag is set, on every rank."""
        ...

    def states(self, own: Arrays) -> list[Arrays]:
        """Each rank's arrays on the first rank, in order of rank; [] on the others; collective.

        The engine's (optimiser, scaler; what all ranks hold alike is among the first rank's
        only) and, as `own/NAME`, those that the caller hands in (random generators).
        """
        ...

    def load_states(self, states: list[Arrays]) -> Arrays:
        """Put back what `states` gave, after the model's weights; every rank passes all of it.

        Returns this rank's `own`, the first rank's where there were fewer ranks.
        """
        ...


def _single(device: torch.device) -> Engine:
    from trainers.engines.single import Single

    return Single(device)


def _ddp(device: torch.device) -> Engine:
    from trainers.engines.ddp import DDP

    return DDP(device)


def _deepspeed(device: torch.device) -> Engine:
    from trainers.engines.deepspeed import DeepSpeed

    return DeepSpeed(device)


ENGINES: Table[Callable[[torch.device], Engine]] = Table(
    "engine", {"single": _single, "ddp": _ddp, "deepspeed": _deepspeed}
)


def check_extra(config: TrialConfig) -> None:
    """Raises: ValueError with the install line where the engine is not installed."""
    if config.engine == "deepspeed":
        from trainers.engines.deepspeed import check_installed

        check_installed()


def check_engine(config: TrialConfig, device: torch.device) -> None:
    """Before any rank is started. Raises: ValueError where the engine cannot run here."""
    if config.engine == "deepspeed":
        from trainers.engines.deepspeed import check_deepspeed

        check_deepspeed(config, device)
    if config.engine != "single" and device.index is not None:
        raise ValueError(
            f"device `{device}` with engine `{config.engine}`: each rank takes the GPU of its own "
            "number; choose cuda, and CUDA_VISIBLE_DEVICES for others"
        )
    if device.type == "cuda" and config.ranks > torch.cuda.device_count():
        raise ValueError(
            f"ranks: {config.ranks}, each needs a GPU of its own; there are "
            f"{torch.cuda.device_count()}"
        )


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device when there is one. Raises: ValueError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device `{name}`: choose auto, cpu, cuda or cuda:INDEX")
    device = torch.device(name)
    have = torch.cuda.device_count()
    if device.type == "cuda" and not have:
        raise ValueError(f"device `{name}`: no CUDA device is available here; choose cpu")
    if device.type == "cuda" and (device.index or 0) >= have:
        raise ValueError(f"device `{name}`: there are {have}, counted from 0")
    return device
