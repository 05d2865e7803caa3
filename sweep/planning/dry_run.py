"""A plan as people read it: a table of trials, then banks, downloads, disk space and time."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from shards.support.progress import clock
from sweep.planning.estimate import Estimate
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
    console.print(f"disk: at most {plan.bytes:,} bytes")
    for line in cost_lines(plan.estimate):
        console.print(line)
    console.print("nothing was run")


def cost_lines(found: Estimate) -> list[str]:
    """What the sweep takes, a line for hours, wall-clock, money, requests and the paper's way."""
    unit, one = ("CPU-core-hours", "CPU cores") if found.device == "cpu" else ("GPU-hours", "GPUs")
    parts = ", ".join(f"{name} {_hours(hours)}" for name, hours in found.hours.items() if hours)
    total = sum(found.hours.values())
    where = one if found.device == "cpu" else f"{one} ({found.device})"
    lines = [
        f"{unit}: {_hours(total)} ({parts})",
        f"wall-clock: about {clock(found.wall_seconds)} on {found.devices} {where}",
    ]
    costs = ", ".join(f"{name} {money:,.2f}" for name, money in found.money.items())
    lines.append(f"cost: {found.total_money:,.2f} {found.currency} ({costs})")
    if found.puts:
        lines.append(f"requests: about {found.puts:,} writes and lists, {found.gets:,} reads")
    if total:
        ours = total * 3600
        lines.append(
            f"the paper's way, teacher in every step and trials one after another on one "
            f"{one.removesuffix('s')}: {clock(found.paper_seconds)}, "
            f"{found.paper_seconds / ours:.1f} times as many {unit}"
        )
    return lines + [f"note: {note}" for note in found.notes]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _table(trials: list[PlannedTrial]) -> Table:
    table = Table(title=f"{len(trials)} trials", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        groups.setdefault(_without_seed(trial), []).append(trial)
    usual = _usual_values(list(groups.values()))
    for name in ("student", "arm", "other fields") if usual else ("student", "arm"):
        table.add_column(name, overflow="fold")
    for name in ("seeds", "trunk", "head", "total", "MMAC", "done"):
        table.add_column(name, justify="right", no_wrap=True)
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


def _without_seed(trial: PlannedTrial) -> str:
    return repr({name: value for name, value in trial.config.items() if name != "seed"})


def _usual_values(groups: list[list[PlannedTrial]]) -> dict[str, Any]:
    """{field: its most frequent value} of the fields without a column in which trials differ.

    A row names only what differs from these, so that it stays short.
    """
    counts: dict[str, Counter[str]] = {}
    for group in groups:
        for name, value in group[0].config.items():
            if name not in SHOWN:
                counts.setdefault(name, Counter())[json.dumps(value)] += len(group)
    return {
        name: json.loads(values.most_common(1)[0][0])
        for name, values in counts.items()
        if len(values) > 1
    }
