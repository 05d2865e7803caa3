"""The training loop: batch, forward, objective, backward, step, report, save."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.base import Engine
from trainers.objectives.base import Loss
from trainers.training.data import Data
from trainers.training.learning_rate import Schedule, set_learning_rate
from trainers.training.optim import OPTIMIZERS
from trainers.training.state import Observe, Reporter, Row, Saver, TrainingState


@dataclass(frozen=True)
class Trained:
    """The result of training.

    student: the module to measure: the moving average of the weights where the trial has one.
    epochs: a row for each epoch, see Reporter.
    observations: on the first rank a row {step, epoch, ...} for each step at which `observe` or
        `probe` was called.
    """

    student: nn.Module
    epochs: list[Row]
    observations: list[Row]


def train(
    config: TrialConfig,
    model: nn.Module,
    objective: Loss,
    data: Data,
    engine: Engine,
    saver: Saver,
    report: Reporter,
    observe: Observe | None = None,
    probe: Observe | None = None,
) -> Trained:
    """Train `model` in place to the end of the trial, from the newest checkpoint if there is one.

    Args:
        config: the trial.
        model: the student, or the module that `wrap_student` puts around it.
        objective: (student_BD, target_BD) -> scalar loss of a micro-batch.
        data: inputs and targets of the train samples.
        engine: this rank's engine, already entered.
        saver: when and where checkpoints are saved, and when to stop early.
        report: called at the end of every epoch.
        observe: (step, student) -> values; called on the first rank before the first step, at
            every multiple of `curve_every` and after the last step. Other ranks may pass None.
        probe: likewise, called at the steps of `probe_at`. Where it raises StoppedProbesError, the
            state is saved as it is, and a resumed trial calls it again.

    Raises:
        DivergedError: where the loss is NaN or infinite, with the step and its samples; where the
            weights are, or what is observed.
        PreemptedError: where `saver.stop` returned true, once the state is saved.
    """
    optimizer = OPTIMIZERS[config.optimizer](model, config)
    rate = Schedule.of(config, len(data))
    state = TrainingState(config, model, data, engine, saver, report, observe, probe)
    forward = engine.prepare(model, optimizer, config)  # after the state has copied the model
    state.resume()
    model.train()
    while state.step < state.total:
        epoch, batches = state.rest_of_epoch()
        # The micro-batches of all remaining steps are one stream, so that the next one is read
        # while this one is computed.
        micro = [engine.micro_batches(index_B, config.accumulate) for index_B in batches]
        lasts = [at + 1 == len(parts) for parts in micro for at in range(len(parts))]
        inputs = data.batches(itertools.chain.from_iterable(micro), epoch)
        for (images_BCHW, teacher_BD), last in zip(inputs, lasts, strict=True):
            set_learning_rate(optimizer, rate(state.step))
            student_BD = engine.gather(forward(images_BCHW))
            loss = objective(student_BD, engine.gather(teacher_BD))
            engine.backward(loss, last)
            if last:
                state.end_step(engine.step())
    state.check_weights()
    return Trained(state.average.student, state.epochs, state.observations)
