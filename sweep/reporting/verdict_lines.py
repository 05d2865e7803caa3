"""Verdicts on claims as a reader sees them: a sign, a word, the claim, and one line of evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sweep.analysis.evidence import Evidence
from sweep.analysis.verdicts import Verdict
from sweep.reporting.groups import number
from trainers.probes.names import metric_of

SIGNS = {
    "supported": "✓", "refuted": "✗", "inconclusive": "?", "undecidable": "○",
    "not converged": "↻", "untestable": "–",
}  # fmt: skip
KINDS = {"supported": "supported", "refuted": "refuted"}
TESTS = {"welch": "Welch", "paired": "paired t"}


@dataclass(frozen=True)
class VerdictLine:
    """kind: `supported`, `refuted` or `undecided`, for colours. evidence: one or more sentences."""

    claim: str
    verdict: str
    sign: str
    kind: str
    evidence: str


def verdict_lines(verdicts: Iterable[Verdict]) -> list[VerdictLine]:
    """One line a verdict, in their order."""
    return [
        VerdictLine(
            one.claim.name[:1].upper() + one.claim.name[1:],
            one.verdict,
            SIGNS[one.verdict],
            KINDS.get(one.verdict, "undecided"),
            _evidence(one),
        )
        for one in verdicts
    ]


def _evidence(verdict: Verdict) -> str:
    parts = [_estimate(verdict, verdict.evidence)] if verdict.evidence else []
    parts += [verdict.reason] if verdict.reason else []
    if verdict.seeds_needed:
        parts.append(f"about {verdict.seeds_needed} seeds a group would decide")
    parts += verdict.notes
    if verdict.post_hoc:
        parts.append("post hoc: declared or changed after trials had begun")
    sentences = (part[0].upper() + part[1:].rstrip(".") for part in parts if part)
    return ". ".join(sentences) + ("." if parts else "")


def _estimate(verdict: Verdict, found: Evidence) -> str:
    """`Difference 11.1 points (95 % interval -4.1 to 26.3), Welch p = 0.108, n = 3`."""
    if found.contrast is None:
        return f"n = {found.n}"
    by, unit = _unit(verdict, found)
    low, high = found.contrast.interval()
    values = [by * value for value in (found.contrast.estimate, low, high)]
    quantity = found.quantity
    if quantity == "ln ratio":
        quantity, values = "ratio", [math.exp(value) for value in values]
    size = max(abs(value) for value in values)
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    middle, low_text, high_text = (number(value, digits) for value in values)
    p = f"p = {found.p:.2g}"
    if verdict.corrected and verdict.corrected.p > found.p * 1.001:
        p += f" ({verdict.corrected.p:.2g} after Holm)"
    test = TESTS.get(found.contrast.test, found.contrast.test)
    return (
        f"{quantity} {middle}{unit}, 95 % interval {low_text} to {high_text}; {test} {p}; "
        f"n = {found.n}"
    )


def _unit(verdict: Verdict, found: Evidence) -> tuple[float, str]:
    """(factor, unit): shares are shown as points of a percentage."""
    known = metric_of(verdict.claim.metric)
    share = known is not None and known.unit == "share"
    return (
        (100, " points") if share and found.quantity in ("difference", "interaction") else (1, "")
    )
