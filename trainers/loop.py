"""The training loop: batch, forward, objective, backward, step, report, save."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from trainers.checkpoint import Checkpoints, State, capture, restore
from trainers.config import TrialConfig
from trainers.data import Data, permutation
from trainers.engines import Engine
from trainers.objectives import Objective


class Reporter(Protocol):
    """Told once an epoch; `values` has step, epoch, loss (mean over the epoch), time_ms."""

    def __call__(self, values: dict[str, Any]) -> None: ...


class DivergedError(RuntimeError):
    """The loss is not finite: the trial has an outcome, and running it again will not change it."""


@dataclass
class Saver:
    """When to save: at the end of an epoch, once `seconds` have passed since the last save."""

    checkpoints: Checkpoints
    seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _last: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def due(self) -> bool:
        return self.clock() - self._last >= self.seconds

    def save(self, state: State) -> None:
        self.checkpoints.save(state)
        self._last = self.clock()


def train(
    config: TrialConfig,
    model: nn.Module,
    objective: Objective,
    data: Data,
    engine: Engine,
    saver: Saver,
    report: Reporter,
) -> list[dict[str, Any]]:
    """Train `model` in place; the curve, one row an epoch. Goes on from the newest checkpoint.

    Errors: DivergedError naming the step when the loss is NaN or infinite.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    forward = engine.prepare(model, optimizer, config)
    curve = _resume(saver.checkpoints, model, engine)
    model.train()
    steps = len(data) // config.batch_size
    assert config.epochs is not None
    for epoch in range(len(curve), config.epochs):
        order_N = permutation(config.seed, epoch, len(data))
        losses = torch.zeros(steps, dtype=torch.float64, device=engine.device)
        batches = order_N[: steps * config.batch_size].split(config.batch_size)
        parts = [part for b in batches for part in engine.micro_batches(b, config.accumulate)]
        for at, (images_BCHW, teacher_BD) in enumerate(data.batches(parts, epoch)):
            step, micro = divmod(at, config.accumulate)
            student_BD = engine.gather(forward(images_BCHW))
            loss = objective(student_BD, engine.gather(teacher_BD), config)
            engine.backward(loss, last := micro + 1 == config.accumulate)
            losses[step] += loss.detach() / config.accumulate
            if last:
                engine.step()
        _check_finite(losses, epoch)
        done = (epoch + 1) * steps
        row = {"step": done, "epoch": epoch + 1, "loss": float(losses.mean())}
        curve.append(row | {"time_ms": int(time.time() * 1000)})
        if engine.agree(saver.due() and epoch + 1 < config.epochs):
            states = engine.states()
            if engine.rank == 0:
                saver.save(State(done, capture(model, states), {"curve": curve}))
        if engine.rank == 0:
            report(curve[-1])
    return curve


def _resume(checkpoints: Checkpoints, model: nn.Module, engine: Engine) -> list[dict[str, Any]]:
    """Restore every rank from the checkpoint that the first rank chose; the curve up to there."""
    saved = checkpoints.latest() if engine.rank == 0 else None
    step = engine.agree(saved.step if saved else -1)
    if step < 0:
        return []
    saved = saved or checkpoints.load(step)
    engine.load_states(restore(saved.arrays, model))
    return saved.values["curve"]


def _check_finite(losses: torch.Tensor, epoch: int) -> None:
    """Looked at once an epoch, so that a GPU need not wait for every step."""
    good = torch.isfinite(losses)
    if not good.all():
        at = int(good.int().argmin())
        raise DivergedError(
            f"diverged at step {epoch * len(losses) + at + 1} (epoch {epoch + 1}): the loss is "
            f"{float(losses[at])}; try a smaller lr"
        )
