"""Verdicts on claims as the page shows them, in the words of `sweep.analysis.words`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sweep.analysis import words
from sweep.analysis.verdicts import Verdict

SIGNS = {
    "supported": "✓", "refuted": "✗", "inconclusive": "?", "undecidable": "○",
    "not converged": "↻", "untestable": "–",
}  # fmt: skip
DECIDED = ("supported", "refuted")


@dataclass(frozen=True)
class VerdictLine:
    """kind: `supported`, `refuted` or `undecided`, for colours. evidence, details: sentences."""

    claim: str
    verdict: str
    sign: str
    kind: str
    evidence: str
    details: str


def verdict_lines(verdicts: Iterable[Verdict]) -> list[VerdictLine]:
    """One line a verdict, in their order."""
    return [
        VerdictLine(
            words.claim(one),
            words.title(one),
            SIGNS[one.verdict],
            one.verdict if one.verdict in DECIDED else "undecided",
            words.evidence(one),
            "; ".join(words.details(one)),
        )
        for one in verdicts
    ]
