"""The keeper of a trial: where it is, what it has shown so far, when that is looked at and saved.

Losses stay on the device until somebody looks, about twice a second: a GPU need not wait for
every step. A look refuses a loss that is not finite, and comes before anything is saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from trainers.config.durations import in_steps
from trainers.config.schema import TrialConfig
from trainers.engines.base import Engine
from trainers.training.checkpoint import Checkpoints, State, capture, restore
from trainers.training.compile import eager
from trainers.training.data import Data, permutation
from trainers.training.ema import Average
from trainers.training.preemption import PreemptedError
from trainers.training.rng_state import random_arrays, restore_random, seed_all

LOOK = 0.5  # seconds between two looks, about
MOST = 1024  # steps between two looks
NAMED = 3  # samples of a batch whose loss is not finite
Row = dict[str, Any]
Observe = Callable[[int, nn.Module], dict[str, float]]


class Reporter(Protocol):
    """Told once an epoch; `values` has step, epoch, loss (mean over the epoch), time_ms.

    A trial may end inside an epoch: then the last row's `epoch` is a fraction, and its loss the
    mean over the steps of that part.
    """

    def __call__(self, values: dict[str, Any]) -> None: ...


class DivergedError(RuntimeError):
    """The loss is not finite: the trial has an outcome, and running it again will not change it."""


@dataclass
class Saver:
    """When to save: once `seconds` have passed since the last save; and when to leave.

    `stop` says whether the trial was asked to leave: it saves, then raises PreemptedError.
    """

    checkpoints: Checkpoints
    seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic
    stop: Callable[[], bool] = lambda: False
    _last: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def due(self) -> bool:
        return self.clock() - self._last >= self.seconds

    def save(self, state: State) -> None:
        self.checkpoints.save(state)
        self._last = self.clock()


class Keeper:
    """Told of each step (`stepped`), on every rank."""

    def __init__(
        self,
        config: TrialConfig,
        model: nn.Module,
        data: Data,
        engine: Engine,
        saver: Saver,
        report: Reporter,
        observe: Observe | None = None,
    ) -> None:
        self.config, self.model, self.data, self.engine = config, model, data, engine
        self.saver, self.report, self.observe = saver, report, observe
        self.average = Average(model, config.ema)
        self.per_epoch = len(data) // config.batch_size
        self.total = config.total_steps(len(data))
        self.step = 0
        self.curve: list[Row] = []
        self.observed: list[Row] = []
        self.losses = torch.zeros(self.per_epoch, dtype=torch.float64, device=engine.device)
        self._every = self._observation_steps()
        self._observed_at: int | None = None
        self._interval, self._next = 1, 1
        self._looked = saver.clock()

    # ---- before the first step ----

    def resume(self) -> None:
        """Restore every rank from the checkpoint that the first rank chose, if there is one."""
        first = self.engine.rank == 0
        saved = self.saver.checkpoints.latest() if first else None
        step = self.engine.broadcast(saved.step if saved else -1)
        if step < 0:
            seed_all(self.config.seed, self.engine.rank)
        else:
            saved = saved or self.saver.checkpoints.load(step)
            with self.engine.full_weights(write=True):
                states = restore(saved.arrays, self._modules())
            restore_random(self.engine.load_state(states), self.engine.device)
            self.step = step
            losses = saved.arrays["losses"]
            self.losses[: len(losses)] = losses.to(self.losses.device)
            self.curve, self.observed = saved.values["curve"], saved.values["observed"]
            self._observed_at = self.observed[-1]["step"] if self.observed else None
        self._next = self.step + 1
        self._observe()

    def _modules(self) -> dict[str, nn.Module]:
        kept = self.average.kept
        return {"model": self.model} if kept is None else {"model": self.model, "average": kept}

    def _observation_steps(self) -> int:
        """Raises: ValueError where `curve_every` is less than a step."""
        every = self.config.curve_every
        if every is None:
            return 0
        steps = in_steps(every, self.config.batch_size, len(self.data))
        if steps < 1:
            raise ValueError(f"curve_every: {every} is less than a step; choose `1 steps` or more")
        return steps

    # ---- at every step ----

    def rest_of_epoch(self) -> tuple[int, list[torch.Tensor]]:
        """(epoch, indices of each batch still to come in it), from where the trial is."""
        epoch, first = divmod(self.step, self.per_epoch)
        last = min(self.per_epoch, self.total - epoch * self.per_epoch)
        size, order_N = self.config.batch_size, permutation(self.config.seed, epoch, len(self.data))
        return epoch, list(order_N[first * size : last * size].split(size))

    def stepped(self, loss: torch.Tensor) -> None:
        """Count a step with its loss, and do what is due after it.

        Raises: DivergedError naming step and samples, PreemptedError once the state is saved.
        """
        self.losses[self.step % self.per_epoch] = loss
        self._average()
        self.step += 1
        ended = self.step % self.per_epoch == 0 or self.step == self.total
        if ended:
            self.curve.append(self._row())
        self._observe()
        if ended or self.step >= self._next:
            self._look()
        if ended:
            if self.engine.rank == 0:
                self.report(self.curve[-1])
            self.losses.zero_()

    def _average(self) -> None:
        if self.average.kept is not None:
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
        """Only the first rank looks, but the others make the model whole with it."""
        due = self._every and (self.step % self._every == 0 or self.step == self.total)
        if not due or self._observed_at == self.step:
            return
        self._check_finite()
        with self.engine.full_weights():
            if self.observe is not None and self.engine.rank == 0:
                row = {"step": self.step, "epoch": self.step / self.per_epoch}
                self.observed.append(row | self._observed(self.observe))
        self._observed_at = self.step

    def _observed(self, observe: Observe) -> dict[str, float]:
        """What it draws, training does not miss."""
        student, device = self.average.student, self.engine.device
        mode, cuda = student.training, [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), eager(self.config):
            values = observe(self.step, student)
        student.train(mode)
        return values

    # ---- now and then ----

    def _look(self) -> None:
        """Check the losses; save where the first rank's clock says so, or where one must leave."""
        self._check_finite()
        now = self.saver.clock()
        pause = min(LOOK, self.saver.seconds)
        if now - self._looked > pause:
            self._interval = max(1, self._interval // 2)
        elif now - self._looked < pause / 2:
            self._interval = min(2 * self._interval, MOST)
        leave = self.engine.any_rank(self.saver.stop())
        save = leave or self.saver.due()
        self._interval, save = divmod(self.engine.broadcast(2 * self._interval + save), 2)
        self._next, self._looked = self.step + self._interval, now
        if save:
            self._save()
        if leave:
            self.engine.broadcast(0)  # nobody leaves before the first rank has saved
            raise PreemptedError(
                f"state saved at step {self.step}; the same command again continues"
            )

    def _save(self) -> None:
        states = self.engine.gather_state(random_arrays(self.engine.device))
        with self.engine.full_weights():
            arrays = capture(self._modules(), states) if self.engine.rank == 0 else {}
        if self.engine.rank == 0:
            arrays["losses"] = self.losses[: self.step % self.per_epoch].cpu().clone()
            values = {"curve": self.curve, "observed": self.observed}
            self.saver.save(State(self.step, arrays, values))

    def _check_finite(self) -> None:
        with self.engine.watched("the loss"):
            good = torch.isfinite(self.losses).cpu()
        if good.all():
            return
        at = int(good.int().argmin())
        epoch = (self.step - 1) // self.per_epoch
        size, order_N = self.config.batch_size, permutation(self.config.seed, epoch, len(self.data))
        index_B = order_N[at * size : (at + 1) * size].tolist()
        names = ", ".join(f"`{self.data.keys[i]}`" for i in index_B[:NAMED])
        more = ", ..." if size > NAMED else ""
        raise DivergedError(
            f"diverged at step {epoch * self.per_epoch + at + 1} (epoch {epoch + 1}): the loss is "
            f"{float(self.losses[at])} on {size} samples ({names}{more}); try a smaller lr"
        )
