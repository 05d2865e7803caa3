"""Verdicts as a table for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep.analysis import words
from sweep.analysis.judged import Judged
from sweep.analysis.verdicts import Verdict

# All columns but the first keep their lines, so that 80 characters divide no heading or number.
LONGEST = len("(trials are missing)")
HEADINGS = ("claim", "verdict", "estimate\n[95 %]", "n", "test", "seeds to\ndecide")
STYLES = {"supported": "bold green", "refuted": "bold red", "not converged": "yellow"}


def verdict_table(verdicts: Sequence[Verdict], alpha: float, heading: str = "") -> Table:
    """A row a claim: verdict, estimate with its 95 % interval, test, seeds that would decide."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.title = heading or None
    table.title_justify = "left"
    table.caption_justify = "left"
    table.caption = (
        f"Two-sided, alpha {alpha:g} for the family of {len(verdicts)} by Holm's correction; "
        "intervals are 95 % for one claim."
    )
    for name in HEADINGS:
        justify = "right" if name == "n" else "left"
        first = name == "claim"
        width = LONGEST if first else None
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not first, min_width=width)
    for verdict in verdicts:
        found, estimate = verdict.evidence, words.estimate(verdict)
        cells = [estimate.replace(" [", "\n["), str(found.n) if found else ""]
        cells += [words.test(verdict).replace(" p ", "\np ", 1).replace(", ", "\n")]
        cells += [words.seeds(verdict)]
        title = words.title(verdict).replace(" at ", "\nat ")
        shown = Text(title, style=STYLES.get(verdict.verdict, ""))
        name = [verdict.claim.name, *([f"claimed {words.bound(verdict)}"] if estimate else [])]
        name += [f"({mark})" for mark in words.marks(verdict)]
        table.add_row(Text("\n".join(name)), shown, *map(Text, cells))
    return table


def reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """One line each for what the table has no room for: reasons, diverged seeds, looks.

    What is said of every claim is said once.
    """
    shared: list[str] = []
    if len(verdicts) > 1:
        first, *others = verdicts
        shared = [note for note in first.notes if all(note in other.notes for other in others)]
    lines = [f"all claims: {note}" for note in shared]
    for verdict in verdicts:
        own = [note for note in verdict.notes if note not in shared]
        if parts := [part for part in (verdict.reason, *own) if part]:
            lines.append(f"{verdict.claim.name}: {'; '.join(parts)}")
    return lines


def show_verdicts(judged: Iterable[Judged], console: Console) -> None:
    """Print each family's table, and on stderr what a reader must know beside it."""
    for family in judged:
        heading = f"claims of grid {family.grid}"
        console.print(verdict_table(family.verdicts, family.alpha, heading), soft_wrap=True)
        for line in reasons(family.verdicts):
            print(f"claim:   {line}", file=sys.stderr)
