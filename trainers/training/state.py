"""The state of a training run: its position and losses, and when it is checked and saved.

Losses stay on the device and are checked about twice a second. Reading a loss makes the CPU wait
for the GPU, so a check after every step would leave the GPU idle between steps. A check ends the
trial where a loss is not finite. Before anything is measured or saved, and at the end, the weights
are checked as well, so that no checkpoint holds diverged ones.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from shards.support import storage
from shards.support.command import one_line
from shards.support.retry import briefly
from trainers.config.schema import TrialConfig
from trainers.engines.base import Engine
from trainers.training.checkpoint import Checkpoints, State, capture, restore
from trainers.training.compile import eager
from trainers.training.data import Data, permutation
from trainers.training.divergence import NotFiniteError, all_finite, diverged
from trainers.training.ema import MovingAverage
from trainers.training.preemption import PreemptedError
from trainers.training.rng_state import random_arrays, restore_random, seed_all

CHECK_SECONDS = 0.5  # approximate time between two checks of the losses
MOST_STEPS = 1024  # most steps between two checks
SAVING = 0.02  # share of the time that saving checkpoints may take
CHEAP = 0.005  # the share that it takes where they are then at most OFTEN seconds apart
OFTEN = 120.0
LEAST_SECONDS = 1.0  # between two checkpoints, however cheap they are
RETRY_SECONDS = 30.0  # at most so long after a checkpoint could not be written, another is tried
# The cost of a checkpoint before one was written: a few system calls, and a slow disk or network.
FIXED_COST, BYTES_PER_SECOND = 0.03, 1e8
NAMED = 3  # how many samples of a batch with a non-finite loss a message names
Row = dict[str, Any]
Observe = Callable[[int, nn.Module], dict[str, float]]


class Reporter(Protocol):
    """Called on the first rank at the end of every epoch.

    values: step, epoch, loss (mean over the steps of the epoch), time_ms (milliseconds since 1970),
    and `observed`, {name: value}, where an observation was made at the epoch's end.
    A trial may end inside an epoch; the last row's `epoch` is then a fraction, and its loss the
    mean over the steps of that part.
    """

    def __call__(self, values: dict[str, Any]) -> None: ...


class StoppedProbesError(Exception):
    """The trial is to end, so the probes that run in the middle of its training are given up."""


@dataclass
class Saver:
    """When a trial saves a checkpoint, and when it stops early.

    checkpoints: where they are written.
    seconds: the least time between two checkpoints; None chooses it by what the last one took, so
        that saving takes CHEAP of the time, or more, up to SAVING, where checkpoints would be more
        than OFTEN seconds apart. The first comes once 1 / SAVING times what it is expected to take
        has passed, so that short trials have one, too.
    clock: the present time in seconds.
    stop: once it returns true, the trial saves a checkpoint and raises PreemptedError.
    resumed: called on the first rank, before it trains, with the step from which it goes on.
    restored: called on the first rank, before it trains, with the rows of the epochs that the
        checkpoint holds, as they are reported: the process that saved them may have ended first.
    """

    checkpoints: Checkpoints
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    stop: Callable[[], bool] = lambda: False
    resumed: Callable[[int], None] = lambda step: None
    restored: Callable[[list[Row]], None] = lambda rows: None
    _last: float = field(default=0.0, init=False)
    _cost: float = field(default=0.0, init=False)  # seconds
    _first: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    @property
    def interval(self) -> float:
        """Seconds between two checkpoints at present."""
        if self.seconds is not None:
            return self.seconds
        longer = 0.0 if self._first else min(self._cost / CHEAP, OFTEN)
        return max(LEAST_SECONDS, self._cost / SAVING, longer)

    def expect(self, size: int) -> None:
        """Estimate the first checkpoint's cost from its `size` in bytes."""
        self._cost = FIXED_COST + size / BYTES_PER_SECOND

    def due(self) -> bool:
        """Whether `interval` has passed since the last checkpoint, or since the start."""
        return self.clock() - self._last >= self.interval

    def save(self, state: State, began: float | None = None, is_last: bool = False) -> bool:
        """Write a checkpoint, whose preparation `began` at that time; returns whether it did.

        On an object store a failure is a warning: the trial goes on and saves again later. Hence
        an outage is waited out only where `is_last`, because the process ends.
        Raises: OSError on a disk; LostError where another process has taken the trial over.
        """
        began, saved = self.clock() if began is None else began, True
        try:
            with contextlib.nullcontext() if is_last else briefly():
                self.checkpoints.save(state)
        except OSError as error:
            if storage.is_local(self.checkpoints.location):
                raise
            saved = False
            text = one_line(str(error))
            print(f"warning: checkpoint of step {state.step} not saved: {text}", file=sys.stderr)
        self._last = self.clock()
        self._cost, self._first = self._last - began, False
        if not saved:  # however long it took to fail, the next attempt comes soon
            self._cost = min(self._cost, RETRY_SECONDS * CHEAP)
        return saved


class TrainingState:
    """The position of a training run; every rank has one, and they advance together.

    The loop calls `resume` once, then `end_step` after every optimiser step.

    step: optimiser steps so far. total: steps of the whole trial. epochs: a row for each epoch
    (see Reporter). observations: a row for each step at which `observe` or `probe` was called.
    average: the moving average of the weights. losses: of the steps of this epoch, float64 (steps
    per epoch,), on the device.
    """

    def __init__(
        self,
        config: TrialConfig,
        model: nn.Module,
        data: Data,
        engine: Engine,
        saver: Saver,
        report: Reporter,
        observe: Observe | None = None,
        probe: Observe | None = None,
    ) -> None:
        self.config, self.model, self.data, self.engine = config, model, data, engine
        self.saver, self.report, self.observe, self.probe = saver, report, observe, probe
        self.average = MovingAverage(model, config.ema)
        self.per_epoch = len(data) // config.batch_size
        self.total = config.total_steps(len(data))
        self.step = 0
        self.epochs: list[Row] = []
        self.observations: list[Row] = []
        self.losses = torch.zeros(self.per_epoch, dtype=torch.float64, device=engine.device)
        self._every = config.steps_of_curve(len(data))
        self._probed = config.probed_steps(len(data))
        self._observed_at: int | None = None
        self._interval, self._next_check = 1, 1  # in steps
        self._checked_at = saver.clock()

    # ---- before the first step ----

    def resume(self) -> None:
        """Restore every rank from the newest valid checkpoint, if there is one.

        The first rank chooses the checkpoint, because on a file system with delayed consistency
        each rank could find another one, and a damaged one is skipped.
        """
        first = self.engine.rank == 0
        saved = self.saver.checkpoints.latest() if first else None
        step = self.engine.broadcast(saved.step if saved else -1)
        generation = self.engine.broadcast(saved.generation if saved else 0)
        if step < 0:
            seed_all(self.config.seed, self.engine.rank)
        else:
            saved = saved or self.saver.checkpoints.load(step, generation)
            with self.engine.full_weights(write=True):
                states = restore(saved.arrays, self._modules())
            restore_random(self.engine.load_state(states), self.engine.device)
            self.step = step
            losses = saved.arrays["losses"]
            self.losses[: len(losses)] = losses.to(self.losses.device)
            self.epochs, self.observations = saved.values["curve"], saved.values["observed"]
            self._observed_at = self.observations[-1]["step"] if self.observations else None
        self._next_check = self.step + 1
        if first:
            self.saver.resumed(self.step)
        # The weights, Adam's two moments of each, and perhaps their average.
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        self.saver.expect(3 * weights)
        self._observe()
        # Probes that were given up again end the trial here, before a row is reported that lacks
        # its observation: an epoch is reported once.
        if self.step in self._probed:
            self._check()
        if first:
            self.saver.restored([self._reported(row) for row in self.epochs])

    def _modules(self) -> dict[str, nn.Module]:
        averaged = self.average.averaged
        modules = {"model": self.model}
        return modules if averaged is None else modules | {"average": averaged}

    # ---- at every step ----

    def rest_of_epoch(self) -> tuple[int, list[torch.Tensor]]:
        """(epoch, sample indices of each of its remaining batches), from the present step on."""
        epoch, first = divmod(self.step, self.per_epoch)
        last = min(self.per_epoch, self.total - epoch * self.per_epoch)
        size, order_N = self.config.batch_size, permutation(self.config.seed, epoch, len(self.data))
        return epoch, list(order_N[first * size : last * size].split(size))

    def end_step(self, loss: torch.Tensor) -> None:
        """Record the loss of a step; then average, observe, check, save and report where due.

        loss: scalar, the mean over the global batch.
        Raises: DivergedError with the step and its samples; PreemptedError once the state is saved.
        """
        self.losses[self.step % self.per_epoch] = loss
        self._average()
        self.step += 1
        ended = self.step % self.per_epoch == 0 or self.step == self.total
        if ended:
            self.epochs.append(self._row())
        self._observe()
        # Probes take long, and may have been given up because the trial is to end.
        if ended or self.step in self._probed or self.step >= self._next_check:
            self._check()
        if ended:
            if self.engine.rank == 0:
                self.report(self._reported(self.epochs[-1]))
            self.losses.zero_()

    def _average(self) -> None:
        if self.average.averaged is not None:
            with self.engine.full_weights():
                self.average.update(self.step)

    def _row(self) -> Row:
        self._check_finite()
        count = self.step % self.per_epoch
        epoch = self.step / self.per_epoch if count else self.step // self.per_epoch
        loss = float(self.losses[: count or self.per_epoch].mean())
        time_ms = int(time.time() * 1000)
        return {"step": self.step, "epoch": epoch, "loss": loss, "time_ms": time_ms}

    def _observe(self) -> None:
        """Call `observe` and `probe` where they are due.

        Only the first rank calls them, but gathering sharded weights is collective.
        Raises: DivergedError on every rank where what they measure is not finite.
        """
        curve = self._every and (self.step % self._every == 0 or self.step == self.total)
        probed = self.step in self._probed
        if not (curve or probed) or self._observed_at == self.step:
            return
        self._check_finite()
        self.check_weights()
        either = (self.observe, curve), (self.probe, probed)
        calls = [call for call, due in either if due and call]
        row: Row = {"step": self.step, "epoch": self.step / self.per_epoch}
        given_up, overflow = False, ""
        with self.engine.full_weights():
            if calls and self.engine.rank == 0:
                try:
                    for call in calls:
                        row |= self._run(call)
                except StoppedProbesError:
                    given_up = True
                except NotFiniteError as error:
                    overflow = str(error)
        if self.engine.any_rank(bool(overflow)):
            raise self._diverged(overflow or "an output of the student is not finite")
        if given_up:
            return  # what follows is a check, which saves this step without its row
        if calls and self.engine.rank == 0:
            self.observations.append(row)
        self._observed_at = self.step

    def _reported(self, epoch: Row) -> Row:
        """A row of an epoch with the observation of the step at which it ended, if there is one."""
        for row in reversed(self.observations):
            if row["step"] == epoch["step"]:
                observed = {name: v for name, v in row.items() if name not in ("step", "epoch")}
                return epoch | {"observed": observed}
        return epoch

    def _run(self, observe: Observe) -> dict[str, float]:
        """Call `observe`. Generators and mode are restored, so that training does not change."""
        student, device = self.average.student, self.engine.device
        mode, cuda = student.training, [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), eager(self.config):
            values = observe(self.step, student)
        student.train(mode)
        return values

    # ---- checking and saving ----

    def _check(self) -> None:
        """Check the losses; save where the first rank's clock says so, or before exiting.

        The number of steps to the next check is doubled or halved so that checks are about
        CHECK_SECONDS apart. The ranks must check at the same steps, so the first one decides.
        """
        self._check_finite()
        now = self.saver.clock()
        seconds = min(CHECK_SECONDS, self.saver.interval)
        if now - self._checked_at > seconds:
            self._interval = max(1, self._interval // 2)
        elif now - self._checked_at < seconds / 2:
            self._interval = min(2 * self._interval, MOST_STEPS)
        leave = self.engine.any_rank(self.saver.stop())
        save = leave or self.saver.due()
        # Both decisions of the first rank in one broadcast.
        self._interval, save = divmod(self.engine.broadcast(2 * self._interval + save), 2)
        self._next_check, self._checked_at = self.step + self._interval, now
        if save:
            self.check_weights()
        saved = self._save(is_last=leave) if save else False
        if leave:
            self.engine.broadcast(0)  # a barrier: no rank exits before the first one has saved
            where = f"state saved at step {self.step}" if saved else "its state could not be saved"
            raise PreemptedError(f"{where}; the same command again continues")

    def _save(self, is_last: bool) -> bool:
        """Whether the state was saved, as the first rank knows; the others take it for granted."""
        began = self.saver.clock()
        states = self.engine.gather_state(random_arrays(self.engine.device))
        with self.engine.full_weights():
            arrays = capture(self._modules(), states) if self.engine.rank == 0 else {}
        if self.engine.rank == 0:
            arrays["losses"] = self.losses[: self.step % self.per_epoch].cpu().clone()
            values = {"curve": self.epochs, "observed": self.observations}
            return self.saver.save(State(self.step, arrays, values), began, is_last)
        return True

    def _check_finite(self) -> None:
        with self.engine.watched("the loss"):
            finite = torch.isfinite(self.losses).cpu()
        if finite.all():
            return
        at = int(finite.int().argmin())  # the first one that is not finite
        epoch = (self.step - 1) // self.per_epoch
        size, order_N = self.config.batch_size, permutation(self.config.seed, epoch, len(self.data))
        index_B = order_N[at * size : (at + 1) * size].tolist()
        names = ", ".join(f"`{self.data.keys[i]}`" for i in index_B[:NAMED])
        more = ", ..." if size > NAMED else ""
        what = f"the loss is {float(self.losses[at])} on {size} samples ({names}{more})"
        raise diverged(epoch * self.per_epoch + at + 1, epoch + 1, what)

    def check_weights(self) -> None:
        """Check that the weights and buffers, and their average, are finite. Collective.

        The device is waited for, so not at every step.
        Raises: DivergedError, on every rank where one has such weights.
        """
        with self.engine.full_weights():
            finite = all_finite(self._modules().values())
        with self.engine.watched("the weights"):
            spoilt = not finite.cpu()
        if self.engine.any_rank(spoilt):
            raise self._diverged("a weight or a buffer of the student is not finite")

    def _diverged(self, what: str) -> Exception:
        """The error where `what` is found after this step: an untrained student did not diverge."""
        if not self.step:
            return NotFiniteError(what)
        return diverged(self.step, (self.step - 1) // self.per_epoch + 1, what)
