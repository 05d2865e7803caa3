"""How a sweep stands, as one record, and the record as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shards.support.progress import clock
from shards.support.schema import StrictModel
from sweep.journal.run_record import PlannedTrial
from sweep.planning.remaining import Timing, remaining_seconds

State = Literal["finished", "failed", "stopped_early", "running", "interrupted", "waiting"]
STATES: tuple[State, ...] = get_args(State)
SHOWN = 12  # running trials, and failures, that are shown one by one


class RunningTrial(StrictModel):
    """A trial that is being trained or measured.

    label: see `label_of`. loss: of its newest row. holder: which process runs it.
    """

    trial: str
    label: str
    step: int
    steps: int
    loss: float | None = None
    holder: str = ""


class Failure(StrictModel):
    """A trial that ended without a result, and why, in one line."""

    trial: str
    label: str
    error: str


class Overview(StrictModel):
    """How a sweep stands.

    interrupted: trials that were begun and that no process works on. stopped_early: trials that
    early stopping ended; stops: why. share: how much of the work is done, 0 to 1.
    steps, steps_done: optimiser steps of all trials. steps_per_second: of the trials
    that run now, together. remaining_seconds: None before it can be estimated.
    """

    name: str
    total: int
    finished: int
    failed: int
    running: int
    interrupted: int
    waiting: int
    share: float
    steps_done: int
    steps: int
    steps_per_second: float
    remaining_seconds: float | None
    now: tuple[RunningTrial, ...] = ()
    failures: tuple[Failure, ...] = ()
    stopped_early: int = 0
    stops: tuple[Failure, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """For `--json`."""
        return self.model_dump(mode="json")


@dataclass
class TrialState:
    """How one trial stands. The fields of it that are shown are described in RunningTrial."""

    planned: PlannedTrial
    timing: Timing
    state: State = "waiting"
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    loss: float | None = None
    error: str = ""
    holder: str = ""

    def share(self) -> float:
        """How much of the trial's work is done, 0 to 1."""
        if self.state in ("finished", "failed", "stopped_early"):
            return 1.0
        if self.state != "running":
            return 0.0
        return self.planned.done(self.steps_done())

    def steps_done(self) -> int:
        return self.planned.steps if self.state == "finished" else self.timing.done


def overview_of(
    name: str, trials: Mapping[str, TrialState], now: float, slots: int | None = None
) -> Overview:
    """How the sweep of that name stands.

    trials: by identity. now: seconds since 1970. slots: see `remaining_seconds`.
    """
    count = {state: sum(t.state == state for t in trials.values()) for state in STATES}
    running = {id: trial for id, trial in trials.items() if trial.state == "running"}
    paces = [trial.timing.seconds_a_step() for trial in running.values()]
    total = sum(trial.planned.cost for trial in trials.values())
    done = sum(trial.planned.cost * trial.share() for trial in trials.values())
    return Overview(
        name=name,
        total=len(trials),
        **count,
        share=done / total if total else 1.0,
        steps_done=sum(trial.steps_done() for trial in trials.values()),
        steps=sum(trial.planned.steps for trial in trials.values()),
        steps_per_second=sum(1 / pace for pace in paces if pace),
        remaining_seconds=remaining_seconds([t.timing for t in trials.values()], now, slots),
        now=tuple(
            RunningTrial(
                trial=id,
                label=label_of(trial.config),
                step=trial.timing.done,
                steps=trial.planned.steps,
                loss=trial.loss,
                holder=trial.holder,
            )
            for id, trial in running.items()
        ),
        failures=_without_result(trials, "failed"),
        stops=_without_result(trials, "stopped_early"),
    )


def _without_result(trials: Mapping[str, TrialState], state: State) -> tuple[Failure, ...]:
    return tuple(
        Failure(trial=id, label=label_of(trial.config), error=trial.error)
        for id, trial in trials.items()
        if trial.state == state
    )


def label_of(config: dict[str, Any]) -> str:
    """`seed 0, width:1, noise:0.1`: a trial as a reader knows it."""
    parts = [config.get("student"), config.get("arm"), config.get("objective")]
    named = [str(part) for part in parts if part not in (None, "cosine")]
    return ", ".join([f"seed {config.get('seed')}", *named])


def left(overview: Overview) -> str:
    """`2:10 left`."""
    seconds = overview.remaining_seconds
    if seconds == 0:
        return "done"
    return "time left not known yet" if seconds is None else f"{clock(seconds)} left"


def counts(overview: Overview) -> str:
    """`7/18 trials, 2 running, 1 failed, 41 steps/s`."""
    parts = [f"{overview.finished}/{overview.total} trials"]
    for name in ("running", "failed", "stopped_early", "interrupted", "waiting"):
        count = getattr(overview, name)
        parts += [f"{count} {name.replace('_', ' ')}"] if count else []
    if overview.steps_per_second:
        parts.append(f"{overview.steps_per_second:.3g} steps/s")
    return ", ".join(parts)


def view(overview: Overview, elapsed: float | None = None) -> RenderableType:
    """What a terminal shows: a bar, the counts, the trials that run, and the failures."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text(overview.name, style="bold"),
        ProgressBar(total=1.0, completed=overview.share, width=30),
        f"{overview.share:4.0%}",
        f"{clock(elapsed)} elapsed" if elapsed is not None else "",
        left(overview),
    )
    parts: list[RenderableType] = [bar, Text(counts(overview))]
    if overview.now:
        parts.append(_running(overview.now))
    parts += _ends("failed", "failures", overview.failures, "red")
    parts += _ends("stopped early", "stopped early", overview.stops, "yellow")
    return Group(*parts)


def _ends(what: str, more: str, trials: Sequence[Failure], style: str) -> list[Text]:
    """A line for each trial that ended without a result, and a count of those left out."""
    lines = [
        Text(f"{what}: {one.trial} ({one.label}): {one.error}", style=style)
        for one in trials[:SHOWN]
    ]
    if len(trials) > SHOWN:
        lines.append(Text(f"and {len(trials) - SHOWN} more {more}", style=style))
    return lines


def _running(trials: Sequence[RunningTrial]) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in trials[:SHOWN]:
        loss = "" if one.loss is None else f"loss {one.loss:.4f}"
        what = (
            "measuring" if one.steps and one.step >= one.steps else f"step {one.step}/{one.steps}"
        )
        table.add_row(Text(one.trial, style="dim"), one.label, what, loss, Text(one.holder))
    if len(trials) > SHOWN:
        table.add_row("", f"and {len(trials) - SHOWN} more", "", "", "")
    return table
