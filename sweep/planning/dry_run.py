"""The dry run as people read it: a table of trials, then what is built, fetched and paid."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from shards.support.progress import clock


def show(plan: dict[str, Any], console: Console) -> None:
    """The dry run, for people: one line for trials that differ in their seed alone."""
    table = Table(title=f"{len(plan['trials'])} trials", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    usual = _odd(plan)
    for name in ("student", "arm", "but") if usual else ("student", "arm"):
        table.add_column(name, overflow="fold")
    for name in ("seeds", "trunk", "head", "total", "MMAC", "done"):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in plan["trials"]:
        changing = {k: v for k, v in row["config"].items() if k != "seed"}
        groups.setdefault((repr(changing),), []).append(row)
    for rows in groups.values():
        first = rows[0]
        other = (f"{n} {v}" for n, v in first["config"].items() if n in usual and v != usual[n])
        table.add_row(
            first["student"],
            first["arm"],
            *([", ".join(other)] if usual else []),
            str(len(rows)),
            f"{first['trunk']:,}",
            f"{first['head']:,}",
            f"{first['parameters']:,}",
            f"{first['macs'] / 1e6:,.1f}",
            str(sum(row["finished"] for row in rows)),
        )
    console.print(table)
    views = {row["arm"]: set[int]() for row in plan["trials"]}
    for row in plan["trials"]:
        views[row["arm"]].add(row["distinct_views"])
    seen = (f"{arm} {' or '.join(map(str, sorted(each)))}" for arm, each in views.items())
    console.print(f"distinct views of a sample: {', '.join(seen)}")
    for bank in plan["banks"]:
        request = bank["request"]
        arms = ", ".join(["clean", *request["arms"]])
        console.print(
            f"to build: {request['dataset']} x {', '.join(request['teachers'])} ({arms}; "
            f"{request['views']} views), {bank['bytes']:,} bytes"
        )
    for line in plan["downloads"]:
        console.print(f"to download: {line}")
    seconds, cores = plan["cpu_seconds"], max(1, plan["cores"] or 1)
    each = math.ceil(seconds["training"] / cores)
    console.print(
        f"disk: {plan['bytes']:,} bytes. On this machine's {cores} cores, without a GPU: teacher "
        f"about {clock(seconds['teacher'])}, training about {clock(each)}"
    )
    console.print("nothing was run")


def _odd(plan: dict[str, Any]) -> dict[str, Any]:
    """{field: most frequent value} of the fields in which trials differ, besides those shown."""
    shown = ("student", "arm", "seed", "views", "curve_every", "curve_samples")
    counts: dict[str, Counter[Any]] = {}
    for row in plan["trials"]:
        for name, value in row["config"].items():
            if name not in shown:
                counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {n: json.loads(c.most_common(1)[0][0]) for n, c in counts.items() if len(c) > 1}
