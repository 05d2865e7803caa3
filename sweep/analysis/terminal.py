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

LONGEST = len("inconclusive")  # the longest word of a verdict, which no line end should divide
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
    for name in ("claim", "verdict", "estimate [95 %]", "claimed", "n", "test", "seeds to decide"):
        justify = "right" if name == "n" else "left"
        width = LONGEST if name == "verdict" else None
        table.add_column(name, justify=justify, overflow="fold", min_width=width)
    for verdict in verdicts:
        found = verdict.evidence
        cells = [words.estimate(verdict), words.bound(verdict), str(found.n) if found else ""]
        cells += [words.test(verdict), words.seeds(verdict)]
        shown = Text(words.title(verdict), style=STYLES.get(verdict.verdict, ""))
        table.add_row(Text(words.claim(verdict)), shown, *map(Text, cells))
    return table


def reasons(verdicts: Sequence[Verdict]) -> list[str]:
    """One line each for what the table has no room for: reasons, diverged seeds, spent alpha."""
    lines: list[str] = []
    for verdict in verdicts:
        parts = [part for part in (verdict.reason, *verdict.notes) if part]
        if parts:
            lines.append(f"{verdict.claim.name}: {'; '.join(parts)}")
    return lines


def show_verdicts(judged: Iterable[Judged], console: Console) -> None:
    """Print each family's table, and on stderr what a reader must know beside it."""
    for family in judged:
        heading = f"claims of grid {family.grid}"
        console.print(verdict_table(family.verdicts, family.alpha, heading), soft_wrap=True)
        for line in reasons(family.verdicts):
            print(f"claim:   {line}", file=sys.stderr)
        if family.unfinished:
            what = f"{family.unfinished} trials of grid {family.grid} have no result"
            print(f"claim:   {what}: these verdicts are of the others", file=sys.stderr)
