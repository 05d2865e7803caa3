"""Verdicts in words: units, intervals and tests as a reader sees them."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from sweep.analysis import words
from sweep.analysis.claims import read_claims
from sweep.analysis.published import paper_numbers, published_verdicts
from sweep.analysis.terminal import verdict_table
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
    found = verdict(slope, frame())
    assert words.estimate(found) == "slope -0.141 [-0.179, -0.104]"
    assert "paired t interval [-0.146, -0.136]" in words.details(found)
    assert not any("Hedges" in part for part in words.details(found))


def test_what_an_equivalence_could_show_at_this_n_is_a_margin() -> None:
    details = words.details(verdict(f"kind: equivalence, margin: 0.2, {TWO}", frame()))
    (margin,) = [part for part in details if part.startswith("detectable")]
    assert margin == "detectable at this n: a margin of 3.8 points, if theta is 0"


def test_a_falling_trend_is_below_its_bound() -> None:
    text = f"kind: trend, metric: {M}, along: {{student: [width:1, width:4]}}, direction: "
    assert words.bound(verdict(text + "falls", frame())) == "< 0"
    assert words.bound(verdict(text + "falls, margin: 0.1", frame())) == "< -0.1"
    assert words.bound(verdict(text + "rises", frame())) == "> 0"


def test_seeds_beyond_a_thousand_are_no_number_of_seeds() -> None:
    trials = frame()
    trials[M] = [0.5 + 0.01 * (i * 7 % 8) for i in range(16)]
    trials.loc[0, M] += 1e-5
    evidence = words.evidence(verdict(f"kind: superiority, {TWO}", trials))
    assert evidence.endswith("more than 1,000 seeds a group would be needed to decide")


def test_a_terminal_of_80_columns_divides_no_heading_and_no_number() -> None:
    text = named_claims("paper")
    assert text is not None
    verdicts = [*published_verdicts(read_claims(text, "paper"), paper_numbers())]
    marked = verdict(f"kind: equivalence, margin: 0.2, {TWO}", frame())
    verdicts.append(replace(marked, post_hoc=True, exploratory=True, missing=3))
    verdicts.append(verdict(f"kind: difference, {TWO}", frame(1)))
    out = io.StringIO()
    Console(file=out, width=80).print(verdict_table(verdicts, 0.05), soft_wrap=True)
    table = out.getvalue().splitlines()[: -len("caption".splitlines())]
    assert max(map(len, table)) <= 80
    words_shown = {word for line in table for word in line.split("  ") if word}
    assert {"claim", "verdict", "estimate", "seeds to"} <= {word.strip() for word in words_shown}
    marks = ("inconclusive", "undecidable", "(post hoc)", "(exploratory)", "(trials are missing)")
    numbers = ("+11.1 points", "[-4.2, +26.3]", "p = 0.108", "Holm p = 0.323")
    for whole in (*marks, *numbers, "Welch TOST"):
        assert any(whole in line for line in table), whole


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
