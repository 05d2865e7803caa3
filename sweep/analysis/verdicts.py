"""What becomes of each claim: one of six verdicts, with its evidence.

    untestable     values are missing: no such trial or metric, no deviation, no spread
    not converged  the claim is gated, and the rank still moves at the end of training
    undecidable    no outcome of this many seeds could pass an exact test at the corrected alpha
    supported      the test for the claim passes after Holm's correction over the family
    refuted        the test against it does
    inconclusive   neither

They are tried in this order. docs/statistics.md explains each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from sweep.analysis import power
from sweep.analysis.claims import Claim, Claims, Equivalence
from sweep.analysis.convergence import LAST, MOVES
from sweep.analysis.effects import pooled_sd
from sweep.analysis.evidence import Evidence, evidence_of
from sweep.analysis.families import Corrected, Share, holm, share_of
from sweep.analysis.floor import floor_seeds
from sweep.analysis.values import TrialValues, UntestableError, Values

Name = Literal["supported", "refuted", "inconclusive", "undecidable", "not converged", "untestable"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim.

    claim: what was claimed. verdict: one of the six. reason: why, as a clause, for the verdicts
    that are no outcome of a test; else "". evidence: of the test; None where there was none.
    corrected: the test's p after Holm, and the alpha it was compared with. detectable: smallest
    |theta - bound| (in the unit of the metric) that this n detects with 80 % power at the alpha of
    the family's first test; of an equivalence the smallest margin that it can show, if theta is 0.
    seeds_needed: seeds a group that would decide, if theta is as large as estimated; None where
    that is unknown or more than 1,000. post_hoc: declared or changed after trials had begun.
    exploratory: of a look at results that was not planned. missing: how many of the family's trials
    have not ended. notes: what a reader must know beside it, such as diverged seeds.
    """

    claim: Claim
    verdict: Name
    reason: str = ""
    evidence: Evidence | None = None
    corrected: Corrected | None = None
    detectable: float | None = None
    seeds_needed: int | None = None
    post_hoc: bool = False
    exploratory: bool = False
    missing: int = 0
    notes: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether it was claimed beforehand, and a planned look at all trials supports it."""
        planned = not self.post_hoc and not self.exploratory
        return self.verdict == "supported" and planned and not self.missing


def verdicts_of(
    claims: Claims,
    values: Values,
    post_hoc: Iterable[str] = (),
    looks: Sequence[int] = (),
    missing: int = 0,
    remarks: Iterable[str] = (),
) -> list[Verdict]:
    """One verdict a claim, in the order of the claims, all corrected as one family.

    post_hoc: sha256 of claims that were declared after trials had begun. looks: seeds a group at
    each look at results, see `families.share_of`. missing: how many trials of the family have not
    ended. remarks: notes that all verdicts share.
    """
    share = share_of(claims.alpha, claims.looks, looks)
    alpha = share.alpha
    shared = (*_remarks(share, claims, looks, missing), *remarks)
    gathered = [_gather(claim, values) for claim in claims.claims]
    p_values = [found.p if isinstance(found, Evidence) else None for found in gathered]
    corrected = holm([None if p is None or math.isnan(p) else p for p in p_values], alpha)
    late = set(post_hoc)
    strictest = alpha / max(1, len(gathered))
    verdicts: list[Verdict] = []
    for claim, found, one in zip(claims.claims, gathered, corrected, strict=True):
        if isinstance(found, Verdict):
            verdict = found
        else:
            verdict = _judge(claim, found, one, strictest, values)
        verdicts.append(
            replace(
                verdict,
                post_hoc=claim.sha256 in late,
                exploratory=share.exploratory,
                missing=missing,
                notes=(*verdict.notes, *shared),
            )
        )
    return verdicts


def _remarks(share: Share, claims: Claims, looks: Sequence[int], missing: int) -> Iterable[str]:
    """What is to be said of a whole family."""
    if missing:
        have = "1 trial of this grid has" if missing == 1 else f"{missing} trials of this grid have"
        yield f"{have} not ended: the verdict is of the others, and may change"
    planned = " and ".join(str(n) for n in share.planned)
    if share.exploratory:
        seen = " then ".join(str(n) for n in dict.fromkeys(looks))
        yield (
            f"seeds were added after a look ({seen}), planned were {planned}: no alpha is left for "
            "this look, which is exploratory"
        )
    if len(claims.looks) > 1:
        yield f"looks were planned at {planned} seeds, each with alpha {share.alpha:.3g}"


def verdicts_of_trials(
    claims: Claims,
    trials: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    post_hoc: Iterable[str] = (),
    looks: Sequence[int] = (),
    arrays: Callable[[str], Mapping[str, list[float]]] | None = None,
    missing: int = 0,
    remarks: Iterable[str] = (),
) -> list[Verdict]:
    """`verdicts_of` on one run: `Study.trials`, `Study.curves` and `Study.arrays`."""
    values = TrialValues(trials, curves, arrays)
    return verdicts_of(claims, values, post_hoc, looks, missing, remarks)


def _gather(claim: Claim, values: Values) -> Evidence | Verdict:
    try:
        return evidence_of(claim, values)
    except UntestableError as error:
        return Verdict(claim, "untestable", str(error))


def _judge(
    claim: Claim, found: Evidence, corrected: Corrected, strictest: float, values: Values
) -> Verdict:
    """The verdict on evidence. strictest: alpha of the family's first test, alpha / m."""
    outcome, reason = _outcome(claim, found, corrected, strictest, values)
    notes = _notes(found, corrected, outcome in ("supported", "refuted"))
    return Verdict(
        claim,
        outcome,
        reason,
        found,
        corrected if found.contrast else None,
        detectable=_detectable(claim, found, strictest),
        seeds_needed=None
        if outcome not in ("inconclusive", "undecidable")
        else _seeds_needed(claim, found, strictest),
        notes=notes,
    )


def _outcome(
    claim: Claim, found: Evidence, corrected: Corrected, strictest: float, values: Values
) -> tuple[Name, str]:
    if found.contrast is None and found.n > 1:
        return "untestable", "no spread between seeds, so nothing to test with"
    if claim.converged:
        moves = [values.movement(where) for where in claim.groups()]
        if any(moved is None for moved in moves):
            return "untestable", (
                "it needs a settled rank, and too little was observed around the start of the last "
                "fifth of training: set curve_every to a third of training or less"
            )
        worst = max(moved or 0.0 for moved in moves)
        if worst >= MOVES:
            return "not converged", (
                f"rank still moves by {worst:.1%} in the last {LAST:.0%} of training (limit "
                f"{MOVES:.0%})"
            )
    if found.floor > strictest or found.contrast is None:
        return "undecidable", (
            f"{found.n} seed{'s' * (found.n != 1)} cannot give an exact p below {found.floor:.2g}, "
            f"and the family asks for {strictest:.2g}"
        )
    if not corrected.significant:
        return "inconclusive", ""
    return ("supported" if found.p_for <= found.p_against else "refuted"), ""


# ---- what goes with it ----


def _notes(found: Evidence, corrected: Corrected, decided: bool) -> tuple[str, ...]:
    notes: list[str] = []
    for sample in found.groups:
        for status, count in sample.lost.items():
            whole = sample.n + sum(sample.lost.values())
            notes.append(f"{sample.label}: {count} of {whole} seeds {status}, in no mean")
    for what, interval in (
        ("over test images alone, seeds held fixed", found.images),
        ("over test images and seeds together", found.joint),
    ):
        if interval:
            low, high = (f"{100 * end:+.1f}" for end in interval)
            notes.append(f"{what}: {low} to {high} points")
    if decided and found.flips is not None and found.flips > corrected.alpha:
        notes.append(f"the exact sign-flip test does not confirm it (p = {found.flips:.2g})")
    return tuple(notes)


def _scale(found: Evidence) -> tuple[str, float] | None:
    """(test of the power, its unit of effect): trials' deviation for Welch's test of two groups."""
    if found.contrast is None:
        return None
    if found.contrast.test == "welch" and len(found.groups) == 2 and found.quantity != "slope":
        pooled = pooled_sd(found.groups[0], found.groups[1])
        return ("welch", pooled) if pooled else None
    return "paired", found.single_sd


def _detectable(claim: Claim, found: Evidence, alpha: float) -> float | None:
    scale = _scale(found)
    if scale is None or found.contrast is None:
        return None
    if isinstance(claim, Equivalence):
        return power.detectable_margin(found.contrast.df, alpha) * found.contrast.error
    paired = found.contrast.test == "paired"
    n = found.n if paired else min(sample.n for sample in found.groups)
    effect = power.detectable(n, alpha, scale[0])
    return None if effect is None else effect * scale[1]


def _seeds_needed(claim: Claim, found: Evidence, alpha: float) -> int | None:
    scale = _scale(found)
    if scale is None or found.contrast is None:
        return floor_seeds(alpha)
    estimate = found.contrast.estimate
    if isinstance(claim, Equivalence):
        if abs(estimate) < found.bound:
            return power.equivalence_seeds(estimate, found.single_sd, found.bound, alpha)
        return power.seeds_needed((abs(estimate) - found.bound) / found.single_sd, alpha, "paired")
    return power.seeds_needed((estimate - found.bound) / scale[1], alpha, scale[0])
