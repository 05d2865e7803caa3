"""A verdict in words: the estimate with its interval, the test behind it, what would decide."""

from __future__ import annotations

import math

from sweep.analysis.claims import Equivalence
from sweep.analysis.evidence import Evidence
from sweep.analysis.power import MOST
from sweep.analysis.verdicts import Verdict

SHOWN = {"undecidable": "undecidable at this n"}
TESTS = {"welch": "Welch", "paired": "paired t"}


def title(verdict: Verdict) -> str:
    """The verdict's own name, as it is shown."""
    return SHOWN.get(verdict.verdict, verdict.verdict)


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is short."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits < 7 else f"{value:.2e}"


def is_share(metric: str) -> bool:
    """Whether a metric is an accuracy, which is shown in points of a hundred."""
    return metric.rsplit("/", 1)[-1] == "accuracy"


def estimate(verdict: Verdict) -> str:
    """`+11.1 points [-4.2, 26.3]`: theta with its 95 % interval; empty where nothing was tested."""
    found = verdict.evidence
    if found is None or found.contrast is None:
        return ""
    ends = (found.contrast.estimate, *found.contrast.interval())
    if found.quantity == "ln ratio":
        value, low, high = (number(math.exp(end)) for end in ends)
        return f"ratio {value} [{low}, {high}]"
    if found.quantity == "slope":
        value, low, high = (f"{end:+.3f}" for end in ends)
        return f"slope {value} [{low}, {high}]"
    if is_share(verdict.claim.metric):
        value, low, high = (f"{100 * end:+.1f}" for end in ends)
        return f"{value} points [{low}, {high}]"
    value, low, high = (("+" if end > 0 else "") + number(end) for end in ends)
    return f"{value} [{low}, {high}]"


def bound(verdict: Verdict) -> str:
    """What theta is compared with: `> 0 points`, `within 0.05`, `> 2`."""
    found, claim = verdict.evidence, verdict.claim
    if found is None:
        return ""
    share = is_share(claim.metric) and found.quantity in ("difference", "interaction")
    value = math.exp(found.bound) if found.quantity == "ln ratio" else found.bound
    shown = f"{100 * value:g} points" if share else f"{value:g}"
    if isinstance(claim, Equivalence):
        return f"within {shown}"
    return f"not {shown}" if claim.kind == "difference" else f"> {shown}"


def p_value(p: float) -> str:
    """`0.108`, `0.0012`, `< 0.0001`."""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"


def test(verdict: Verdict) -> str:
    """`Welch p = 0.108, Holm 0.323`; empty where nothing was tested."""
    found, corrected = verdict.evidence, verdict.corrected
    if found is None or found.contrast is None or corrected is None:
        return ""
    name = TESTS[found.contrast.test] + (" TOST" if _by_tost(verdict, found) else "")
    return f"{name} p = {p_value(found.p)}, Holm {p_value(corrected.p)}"


def _by_tost(verdict: Verdict, found: Evidence) -> bool:
    if isinstance(verdict.claim, Equivalence):
        return found.p_for <= found.p_against
    return verdict.claim.kind == "difference" and found.p_against < found.p_for


def details(verdict: Verdict) -> list[str]:
    """Effect size, pair correlation, the other test, the exact test, what n can detect, notes."""
    found = verdict.evidence
    said: list[str] = []
    if found and found.effect:
        effect = found.effect
        said.append(f"Hedges' g {effect.g:.2f} [{effect.low:.2f}, {effect.high:.2f}]")
    if found and found.correlation is not None:
        said.append(f"pair correlation {found.correlation:.2f}")
    if found and found.secondary is not None and found.quantity != "slope":
        name = TESTS[found.secondary.test]
        ends = found.secondary.interval()
        said.append(f"{name} interval [{number(ends[0])}, {number(ends[1])}]")
    if found and found.flips is not None:
        said.append(f"exact sign-flip p = {p_value(found.flips)} (least {p_value(found.floor)})")
    if verdict.detectable is not None:
        said.append(f"detectable at this n: {number(verdict.detectable)}")
    return [*said, *verdict.notes]


def seeds(verdict: Verdict) -> str:
    """How many seeds a group would decide: `9`, `> 1000`; empty where seeds are not what lacks."""
    if verdict.verdict not in ("inconclusive", "undecidable"):
        return ""
    return f"> {MOST}" if verdict.seeds_needed is None else str(verdict.seeds_needed)


def sentence(verdict: Verdict) -> str:
    """One line: `S beats L at sigma 0.1: inconclusive. +11.1 points [...], Welch p = 0.108, ...`"""
    parts = [estimate(verdict), test(verdict), verdict.reason]
    if found := verdict.evidence:
        parts.insert(1, f"n = {found.n}")
    if needed := seeds(verdict):
        parts.append(f"{needed} seeds would decide" if found and found.contrast else "")
    late = " (post hoc)" if verdict.post_hoc else ""
    told = "; ".join(part for part in parts if part)
    return f"{verdict.claim.name}{late}: {title(verdict)}. {told}"
