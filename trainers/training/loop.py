"""The training loop: batch, forward, objective, backward, step, report, save."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.base import Engine
from trainers.objectives import Objective
from trainers.training.data import Data
from trainers.training.learning_rate import Schedule, set_learning_rate
from trainers.training.optim import OPTIMIZERS
from trainers.training.state import DivergedError, Keeper, Observe, Reporter, Row, Saver

__all__ = ["DivergedError", "Observe", "Reporter", "Saver", "Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """What training leaves: the student to measure, and what was seen on the way.

    `curve` has a row an epoch (see Reporter); `observed` a row {step, epoch, ...} for each look
    of `observe`, on the first rank.
    """

    student: nn.Module
    curve: list[Row]
    observed: list[Row]


def train(
    config: TrialConfig,
    model: nn.Module,
    objective: Objective,
    data: Data,
    engine: Engine,
    saver: Saver,
    report: Reporter,
    observe: Observe | None = None,
) -> Trained:
    """Train `model` in place, from the newest checkpoint on, for the trial's duration.

    `observe(step, student)` is asked on the first rank before the first step, at every multiple
    of `curve_every` and after the last step; other ranks may pass None.
    Raises: DivergedError naming step and samples when the loss is NaN or infinite,
    PreemptedError when `saver.stop` said so, once the state is saved.
    """
    optimizer = OPTIMIZERS[config.optimizer](model, config)
    rate = Schedule.of(config, len(data))
    keeper = Keeper(config, model, data, engine, saver, report, observe)
    forward = engine.prepare(model, optimizer, config)
    keeper.resume()
    model.train()
    while keeper.step < keeper.total:
        epoch, batches = keeper.rest_of_epoch()
        micro = [engine.micro_batches(index_B, config.accumulate) for index_B in batches]
        lasts = [at + 1 == len(parts) for parts in micro for at in range(len(parts))]
        inputs = data.batches(itertools.chain.from_iterable(micro), epoch)
        for (images_BCHW, teacher_BD), last in zip(inputs, lasts, strict=True):
            set_learning_rate(optimizer, rate(keeper.step))
            student_BD = engine.gather(forward(images_BCHW))
            loss = objective(student_BD, engine.gather(teacher_BD), config)
            engine.backward(loss, last)
            if last:
                keeper.stepped(engine.step())
    return Trained(keeper.average.student, keeper.curve, keeper.observed)
