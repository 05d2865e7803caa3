"""The paper's claims, held against the paper's own published numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sweep.analysis.claims import Claims, read_claims
from sweep.analysis.published import paper_numbers, published_verdicts
from sweep.analysis.verdicts import Verdict
from sweep.grids import named_claims

BEATS = ("S beats L at sigma 0.1", "S beats L at sigma 0.2")


@pytest.fixture(scope="module")
def claims() -> Claims:
    text = named_claims("paper")
    assert text is not None
    return read_claims(text, "paper")


def verdicts(claims: Claims, numbers: dict[str, Any]) -> dict[str, Verdict]:
    return {verdict.claim.name: verdict for verdict in published_verdicts(claims, numbers)}


def precise(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers with deviations divided by ten."""
    changed = copy.deepcopy(numbers)
    for group in changed["groups"]:
        for pair in group["metrics"].values():
            pair[1] = None if pair[1] is None else pair[1] / 10
    return changed


def swapped(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers with the means of S and L exchanged."""
    changed = copy.deepcopy(numbers)
    small, large = (changed["groups"][i]["metrics"] for i in (0, 2))
    for metric in small:
        small[metric][0], large[metric][0] = large[metric][0], small[metric][0]
    return changed


def test_three_seeds_do_not_show_that_s_beats_l(claims: Claims) -> None:
    found = verdicts(claims, paper_numbers())
    for name, p in zip(BEATS, (0.108, 0.079), strict=True):
        assert found[name].verdict == "inconclusive"
        evidence = found[name].evidence
        assert evidence is not None
        assert evidence.contrast is not None
        assert evidence.contrast.test == "welch"
        assert evidence.p == pytest.approx(p, abs=5e-4)
        assert evidence.flips is None
        assert found[name].seeds_needed in (8, 9)


def test_published_deviations_are_converted_from_ddof_0(claims: Claims) -> None:
    evidence = verdicts(claims, paper_numbers())[BEATS[0]].evidence
    assert evidence is not None
    assert evidence.groups[0].sd == pytest.approx(0.0373 * (3 / 2) ** 0.5)


def test_numbers_without_dispersion_are_untestable(claims: Claims) -> None:
    found = verdicts(claims, paper_numbers())
    rank = found["rank does not depend on capacity"]
    assert rank.verdict == "untestable"
    assert "no deviation of test/rank/effective" in rank.reason
    assert found["augmentation does not restore robustness"].verdict == "untestable"


def test_a_tenth_of_the_deviations_would_support_it(claims: Claims) -> None:
    found = verdicts(claims, precise(paper_numbers()))
    assert [found[name].verdict for name in BEATS] == ["supported", "supported"]


def test_exchanged_means_would_refute_it(claims: Claims) -> None:
    found = verdicts(claims, swapped(precise(paper_numbers())))
    assert [found[name].verdict for name in BEATS] == ["refuted", "refuted"]


def test_the_paper_is_untestable_on_numbers_that_it_does_not_publish(claims: Claims) -> None:
    numbers = paper_numbers()
    numbers["groups"] = numbers["groups"][:2]
    assert "nothing is published of clean width:4" in verdicts(claims, numbers)[BEATS[0]].reason
