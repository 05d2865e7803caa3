"""The interface of an engine, which the training loop calls.

An engine is a context manager that each rank's process enters once. Models, objectives and probes
know nothing of it: the loop lets it prepare the model and gather the parts of a batch.
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

    rank: its number, from 0. ranks: how many there are. device: where its tensors are.

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
        """Check, before any rank is started, that the engine can run this trial on this device.

        Raises: ValueError where it cannot.
        """
        ...

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrialConfig
    ) -> Forward:
        """Returns the forward function, (B, 3, H, W) -> (B, D); called once. Collective.

        The function applies the trial's precision and BatchNorm statistics. The engine may wrap
        the model and the optimiser, but `model.state_dict()` stays the student's and
        `optimizer.param_groups` still hold the learning rate. State is restored after this call;
        copies of the model must be made before it.
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
        """While it is active the model's tensors are complete on every rank. Collective.

        Needed around every use of the weights outside the forward function: `state_dict`, an
        average, a measurement. With `write`, what the first rank wrote into them is copied to all.
        """
        ...

    def watched(self, name: str) -> AbstractContextManager[None]:
        """A context for code that waits for the device, and so perhaps for other ranks.

        The watchdog ends this rank where that takes too long, with `name` in its message.
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

        They are the state of optimiser and loss scaler, and under the names `own/NAME` the `extra`
        arrays of the caller (random generators). Arrays that are equal on all ranks are among the
        first rank's only.
        """
        ...

    def load_state(self, states: list[Arrays]) -> Arrays:
        """Restore what `gather_state` returned, after the model's weights were restored.

        states: those of all ranks, on every rank. Returns this rank's `extra`, or the first rank's
        where the checkpoint was saved by fewer ranks.
        """
        ...
