"""A verdict in words: the estimate with its interval, the test behind it, what would decide.

Every number here is in the unit in which it is shown: accuracies and other shares in points of a
hundred, ratios as ratios instead of logarithms.
"""

from __future__ import annotations

import math

from sweep.analysis.claims import Equivalence, Trend
from sweep.analysis.evidence import Evidence
from sweep.analysis.power import MOST
from sweep.analysis.verdicts import Verdict
from trainers.probes.names import metric_of

SHOWN = {"undecidable": "undecidable at this n"}
TESTS = {"welch": "Welch", "paired": "paired t"}
PREFIXES = {"ln ratio": "ratio ", "slope": "slope "}


def title(verdict: Verdict) -> str:
    """The verdict's own name, as it is shown."""
    return SHOWN.get(verdict.verdict, verdict.verdict)


def marks(verdict: Verdict) -> list[str]:
    """Why even a verdict `supported` does not confirm the claim; empty where it does."""
    found = {
        "post hoc": verdict.post_hoc,
        "exploratory": verdict.exploratory,
        "trials are missing": verdict.missing > 0,
    }
    return [mark for mark, holds in found.items() if holds]


def claim(verdict: Verdict) -> str:
    """The claim's name, with its marks in brackets."""
    found = ", ".join(marks(verdict))
    return verdict.claim.name + (f" ({found})" if found else "")


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is short."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits < 7 else f"{value:.2e}"


def in_points(verdict: Verdict, found: Evidence) -> bool:
    """Whether theta is a difference of shares, which is shown in points of a hundred."""
    known = metric_of(verdict.claim.metric)
    share = known is not None and known.unit == "share"
    return share and found.quantity in ("difference", "interaction")


def _shown(verdict: Verdict, found: Evidence, value: float) -> str:
    """One value of theta, without its unit."""
    if found.quantity == "ln ratio":
        return number(math.exp(value))
    if found.quantity == "slope":
        return f"{value:+.3f}"
    if in_points(verdict, found):
        return f"{100 * value:+.1f}"
    return ("+" if value > 0 else "") + number(value)


def estimate(verdict: Verdict) -> str:
    """`+11.1 points [-4.2, +26.3]`: theta, 95 % interval; empty where nothing was tested."""
    found = verdict.evidence
    if found is None or found.contrast is None:
        return ""
    ends = (found.contrast.estimate, *found.contrast.interval())
    value, low, high = (_shown(verdict, found, end) for end in ends)
    unit = " points" if in_points(verdict, found) else ""
    return f"{PREFIXES.get(found.quantity, '')}{value}{unit} [{low}, {high}]"


def bound(verdict: Verdict) -> str:
    """What theta is compared with: `> 0 points`, `within 0.05`, `> 2`."""
    found = verdict.evidence
    if found is None:
        return ""
    value = math.exp(found.bound) if found.quantity == "ln ratio" else found.bound
    shown = f"{100 * value:g} points" if in_points(verdict, found) else f"{value:g}"
    if isinstance(verdict.claim, Equivalence):
        return f"within {shown}"
    if isinstance(verdict.claim, Trend) and verdict.claim.direction == "falls":
        return f"< {shown}"
    return f"not {shown}" if verdict.claim.kind == "difference" else f"> {shown}"


def p_value(p: float) -> str:
    """`p = 0.108`, `p = 0.0012`, `p < 0.0001`."""
    if p < 1e-4:
        return "p < 0.0001"
    return f"p = {p:.3f}" if p >= 0.01 else f"p = {p:.4f}"


def test(verdict: Verdict) -> str:
    """`Welch p = 0.108, Holm p = 0.323`; empty where nothing was tested."""
    found, corrected = verdict.evidence, verdict.corrected
    if found is None or found.contrast is None or corrected is None:
        return ""
    name = TESTS[found.contrast.test] + (" TOST" if _by_tost(verdict, found) else "")
    return f"{name} {p_value(found.p)}, Holm {p_value(corrected.p)}"


def _by_tost(verdict: Verdict, found: Evidence) -> bool:
    if isinstance(verdict.claim, Equivalence):
        return found.p_for <= found.p_against
    return verdict.claim.kind == "difference" and found.p_against < found.p_for


def seeds(verdict: Verdict) -> str:
    """How many seeds a group would decide: `9`, `> 1,000`; empty where seeds are not what lacks."""
    if verdict.verdict not in ("inconclusive", "undecidable"):
        return ""
    return f"> {MOST:,}" if verdict.seeds_needed is None else str(verdict.seeds_needed)


def evidence(verdict: Verdict) -> str:
    """`+11.1 points [-4.2, +26.3], claimed > 0 points; n = 3; Welch p = 0.108, ...`, in one line.

    Empty parts are left out: an untestable claim has its reason alone.
    """
    found, needed = verdict.evidence, seeds(verdict)
    size = estimate(verdict)
    parts = [f"{size}, claimed {bound(verdict)}" if size else ""]
    parts += [f"n = {found.n}" if found else "", test(verdict), verdict.reason]
    if verdict.seeds_needed is not None and needed:
        needed = f"about {needed} seeds a group would decide"
    elif needed:
        needed = f"more than {MOST:,} seeds a group would be needed to decide"
    parts += [needed]
    return "; ".join(part for part in parts if part)


def details(verdict: Verdict) -> list[str]:
    """Effect size, pair correlation, the other test, the exact test, what n can detect, notes."""
    found = verdict.evidence
    parts: list[str] = []
    if found and found.effect:
        effect = found.effect
        parts.append(f"Hedges' g {effect.g:.2f} [{effect.low:.2f}, {effect.high:.2f}]")
    if found and found.correlation is not None:
        parts.append(f"pair correlation {found.correlation:.2f}")
    if found and found.secondary is not None:
        low, high = (_shown(verdict, found, end) for end in found.secondary.interval())
        parts.append(f"{TESTS[found.secondary.test]} interval [{low}, {high}]")
    if found and found.flips is not None:
        parts.append(f"exact sign-flip {p_value(found.flips)} (at least {found.floor:.2g})")
    if found and verdict.detectable is not None:
        parts.append(f"detectable at this n: {_detectable(verdict, found, verdict.detectable)}")
    return [*parts, *verdict.notes]


def _detectable(verdict: Verdict, found: Evidence, gap: float) -> str:
    """The distance of theta from its bound, of logarithms a factor; or an equivalence's margin."""
    if found.quantity == "ln ratio":
        return f"{number(math.exp(gap))} times the bound"
    size = f"{100 * gap:.1f} points" if in_points(verdict, found) else number(gap)
    if isinstance(verdict.claim, Equivalence):
        return f"a margin of {size}, if theta is 0"
    return f"{size} beyond the bound"
