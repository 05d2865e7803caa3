"""How a sweep stands, as one record, and the record as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shards.support.progress import clock
from shards.support.schema import StrictModel

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

    interrupted: trials that were begun and that no process works on. share: how much of the work is
    done, 0 to 1. steps, steps_done: optimiser steps of all trials. steps_per_second: of the trials
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

    def as_plain(self) -> dict[str, Any]:
        """For `--json`."""
        return self.model_dump(mode="json")


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
    for name in ("running", "failed", "interrupted", "waiting"):
        count = getattr(overview, name)
        parts += [f"{count} {name}"] if count else []
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
    parts += [
        Text(f"failed: {one.trial} ({one.label}): {one.error}", style="red")
        for one in overview.failures[:SHOWN]
    ]
    if len(overview.failures) > SHOWN:
        parts.append(Text(f"and {len(overview.failures) - SHOWN} more failures", style="red"))
    return Group(*parts)


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
