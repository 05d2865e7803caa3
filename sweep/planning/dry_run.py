"""A plan as people read it: a table of trials, then banks, downloads, disk space and time."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from shards.support.progress import clock
from sweep.planning.plan import Plan, PlannedTrial

# Fields with a column of their own, or that follow from others.
SHOWN = ("student", "arm", "seed", "views", "curve_every", "curve_samples")


def show(plan: Plan, console: Console) -> None:
    """Print the plan, with one row for all trials that differ in their seed alone."""
    console.print(_table(plan.trials))
    views: dict[str, set[int]] = {}
    for trial in plan.trials:
        views.setdefault(trial.arm, set()).add(trial.distinct_views)
    each = (f"{arm} {' or '.join(map(str, sorted(counts)))}" for arm, counts in views.items())
    console.print(f"distinct views of a sample: {', '.join(each)}")
    for bank in plan.banks:
        request = bank.request
        arms = ", ".join(["clean", *request["arms"]])
        console.print(
            f"to build: {request['dataset']} x {', '.join(request['teachers'])} ({arms}; "
            f"{request['views']} views; draws of seed {request['seed']}), {bank.bytes:,} bytes"
        )
    for line in plan.downloads:
        console.print(f"to download: {line}")
    training = math.ceil(plan.cpu_seconds["training"] / plan.cores)
    console.print(
        f"disk: {plan.bytes:,} bytes. On this machine's {plan.cores} cores, without a GPU: teacher "
        f"about {clock(plan.cpu_seconds['teacher'])}, training about {clock(training)}"
    )
    console.print("nothing was run")


def _table(trials: list[PlannedTrial]) -> Table:
    table = Table(title=f"{len(trials)} trials", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    usual = _usual_values(trials)
    for name in ("student", "arm", "other fields") if usual else ("student", "arm"):
        table.add_column(name, overflow="fold")
    for name in ("seeds", "trunk", "head", "total", "MMAC", "done"):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        without_seed = {name: value for name, value in trial.config.items() if name != "seed"}
        groups.setdefault(repr(without_seed), []).append(trial)
    for group in groups.values():
        first = group[0]
        unusual = [
            f"{name} {value}"
            for name, value in first.config.items()
            if name in usual and value != usual[name]
        ]
        table.add_row(
            first.student,
            first.arm,
            *([", ".join(unusual)] if usual else []),
            str(len(group)),
            f"{first.trunk:,}",
            f"{first.head:,}",
            f"{first.parameters:,}",
            f"{first.macs / 1e6:,.1f}",
            str(sum(trial.finished for trial in group)),
        )
    return table


def _usual_values(trials: list[PlannedTrial]) -> dict[str, Any]:
    """{field: its most frequent value} of the fields without a column in which trials differ.

    A row names only what differs from these, so that it stays short.
    """
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        for name, value in trial.config.items():
            if name not in SHOWN:
                counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {
        name: json.loads(values.most_common(1)[0][0])
        for name, values in counts.items()
        if len(values) > 1
    }
