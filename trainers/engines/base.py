"""The interface of an engine: what the training loop calls, and what each call promises.

An engine is entered once in each rank's process and left at the end. Models, objectives and
probes never see it; the loop asks it to prepare the model and to gather the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, Self

import torch
from torch import nn

from trainers.config.schema import TrialConfig

Forward = Callable[[torch.Tensor], torch.Tensor]
Arrays = dict[str, torch.Tensor]


class Engine(Protocol):
    """One rank of a trial.

    Methods marked "collective" communicate: every rank calls them, in the same order.
    """

    rank: int
    ranks: int
    device: torch.device

    def __init__(self, device: torch.device) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...

    @staticmethod
    def check_installed() -> None:
        """Raises: ValueError with the install command where a library is missing."""
        ...

    @staticmethod
    def check(config: TrialConfig, device: torch.device) -> None:
        """Called before any rank is started.

        Raises: ValueError where this engine cannot run the trial on this kind of device.
        """
        ...

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        """The forward function of a trial; called once, before any state is restored. Collective.

        It applies the trial's precision and BatchNorm statistics. The engine may wrap the model
        and the optimiser, but `model` stays the one whose `state_dict` is the student, and
        `optimizer` the one whose `param_groups` hold the learning rate. Copies of the model must
        be made before this call.
        """
        ...

    def micro_batches(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The indices that this rank computes of a global batch with `count` micro-batches.

        An equal part of each micro-batch; with `elastic: exact` an equal share of whole
        micro-batches. So the number of forward passes in a step is the length of this list,
        which need not be `count`.
        """
        ...

    def gather(self, part_BD: torch.Tensor) -> torch.Tensor:
        """The whole micro-batch from the parts of all ranks, in order, differentiable. Collective.

        Contrastive objectives need it: each sample's negatives are the whole micro-batch.
        """
        ...

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of loss / accumulate. Collective.

        last: whether this is the last micro-batch of the step on this rank.
        """
        ...

    def step(self) -> torch.Tensor:
        """Unscale, clip as the trial says, step the optimiser, and clear the gradients. Collective.

        Returns the mean loss over the step's micro-batches, detached, the same on every rank.
        """
        ...

    def full_weights(self, write: bool = False) -> AbstractContextManager[None]:
        """Inside it the model's tensors are complete on every rank, not sharded. Collective.

        Needed around every use of the weights outside the forward function: `state_dict`, an
        average, a measurement. With `write`, what the first rank wrote into them is copied to all.
        """
        ...

    def watched(self, name: str) -> AbstractContextManager[None]:
        """Put around code that waits for the device, and so perhaps for other ranks.

        The watchdog ends this rank where it takes too long, and names `name`.
        """
        ...

    def broadcast(self, value: int) -> int:
        """The first rank's value, on every rank. Collective."""
        ...

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank, on every rank. Collective."""
        ...

    def gather_state(self, extra: Arrays) -> list[Arrays]:
        """Each rank's arrays on the first rank, in order of rank; [] on the others. Collective.

        The engine's own (optimiser and loss scaler; what all ranks hold alike is among the first
        rank's only) and, under `own/NAME`, the `extra` ones of the caller (random generators).
        """
        ...

    def load_state(self, states: list[Arrays]) -> Arrays:
        """Restore what `gather_state` returned, after the model's weights; every rank gets all.

        Returns this rank's `extra`, or the first rank's where fewer ranks had saved.
        """
        ...
