"""Verdicts in words: units, intervals and tests as a reader sees them."""

from __future__ import annotations

from sweep.analysis import words
from sweep.analysis.claims import read_claims
from sweep.analysis.published import paper_numbers, published_verdicts
from sweep.analysis.verdicts import Verdict
from sweep.grids import named_claims
from tests.sweep.analysis.test_claims import TWO, M, frame, verdict

RANK = TWO.replace(M, "test/rank/effective")


def of_paper(name: str) -> Verdict:
    text = named_claims("paper")
    assert text is not None
    found = published_verdicts(read_claims(text, "paper"), paper_numbers())
    return next(one for one in found if one.claim.name == name)


def test_shares_are_in_points_and_seeds_that_would_decide_are_named() -> None:
    one = of_paper("S beats L at sigma 0.1")
    assert words.evidence(one) == (
        "+11.1 points [-4.2, +26.3], claimed > 0 points; n = 3; Welch p = 0.108, Holm p = 0.323; "
        "about 9 seeds a group would decide"
    )
    assert words.details(one) == [
        "Hedges' g 1.43 [-0.27, 3.72]",
        "detectable at this n: 36.0 points beyond the bound",
    ]


def test_what_is_no_share_keeps_its_unit_and_a_ratio_is_no_logarithm() -> None:
    ranks = frame().rename(columns={M: "test/rank/effective"})
    difference = verdict(f"kind: superiority, {RANK}", ranks)
    assert words.estimate(difference) == "+0.100 [+0.0737, +0.126]"
    assert "detectable at this n: 0.0372 beyond the bound" in words.details(difference)
    ratio = verdict(f"kind: ratio, bound: 1.1, {TWO}", frame())
    assert words.estimate(ratio) == "ratio 1.19 [1.13, 1.24]"
    assert words.bound(ratio) == "> 1.1"
    assert "paired t interval [1.18, 1.19]" in words.details(ratio)
    assert "detectable at this n: 1.07 times the bound" in words.details(ratio)
    slope = f"kind: equivalence, metric: {M}, along: {{student: [width:1, width:4]}}, margin: 0.01"
    assert words.estimate(verdict(slope, frame())) == "slope -0.141 [-0.179, -0.104]"


def test_the_test_behind_a_verdict_is_named() -> None:
    inside = verdict(f"kind: equivalence, margin: 0.2, {TWO}", frame())
    assert words.test(inside) == "Welch TOST p < 0.0001, Holm p < 0.0001"
    outside = verdict(f"kind: equivalence, margin: 0.05, {TWO}", frame())
    assert words.test(outside) == "Welch p = 0.0011, Holm p = 0.0011"
    assert words.bound(outside) == "within 5 points"


def test_what_cannot_be_tested_has_its_reason_alone() -> None:
    one = of_paper("rank does not depend on capacity")
    assert words.evidence(one) == (
        "no deviation of test/rank/effective is published for clean width:1"
    )
    assert words.title(verdict(f"kind: difference, {TWO}", frame(1))) == "undecidable at this n"
