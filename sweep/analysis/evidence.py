"""What a claim's samples say, before any correction: estimate, interval, p for and against."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweep.analysis import contrasts
from sweep.analysis.claims import (
    Claim,
    Difference,
    Equivalence,
    Interaction,
    Ratio,
    Superiority,
    Trend,
    Where,
    is_slope,
)
from sweep.analysis.contrasts import Contrast
from sweep.analysis.effects import Effect, effect_size
from sweep.analysis.floor import floor_of
from sweep.analysis.images import image_interval, joint_interval
from sweep.analysis.samples import Sample, sample_of
from sweep.analysis.values import Records, UntestableError, Values


@dataclass(frozen=True)
class Evidence:
    """The tested quantity theta of one claim.

    quantity: what theta is: `difference`, `slope` (of ln metric over ln parameters), `ln ratio` or
    `interaction`. groups: their samples. bound: what theta is compared with, or the margin around 0
    of an equivalence. contrast: by the primary test; None where there is no spread to test with.
    secondary: by the other test, where it can be made. p_for, p_against: p of the test that would
    support or refute the claim, uncorrected; NaN without a contrast, p_against 1 where nothing can
    refute it.
    n: seeds. floor: the smallest p that flips of the signs of n values can give in the decision
    that the values lean to, 2 / 2^n, or half of that where it is one of TOST; 0 for published
    values, which have no signs to flip. flips: the exact sign-flip p; None for published values.
    correlation: of pairs. effect: Hedges' g of two groups; None for a slope, which is no difference
    of groups. single_sd: standard deviation that theta would have from one seed a group, so that
    with n its error is single_sd / sqrt(n); NaN without a contrast.
    images: interval of a difference or interaction of accuracies over test images, the seeds of
    the estimate held fixed; None where the images of all groups are not recorded or not the same.
    joint: the same over test images and these seeds together; None for a single seed also.
    """

    quantity: str
    groups: tuple[Sample, ...]
    bound: float
    contrast: Contrast | None
    secondary: Contrast | None
    p_for: float
    p_against: float
    n: int
    floor: float
    flips: float | None
    correlation: float | None
    effect: Effect | None
    single_sd: float = math.nan
    images: tuple[float, float] | None = None
    joint: tuple[float, float] | None = None

    @property
    def p(self) -> float:
        """The smaller of the two p: that of the decision the values lean to."""
        return min(self.p_for, self.p_against)


def evidence_of(claim: Claim, values: Values) -> Evidence:
    """The evidence on one claim. Raises: UntestableError where a sample is missing."""
    quantity, groups, weights = _samples(claim, values)
    pairs = _is_paired(claim, values)
    tests: dict[bool, Callable[..., Contrast | None]] = {
        True: contrasts.paired,
        False: contrasts.welch,
    }
    primary, other = tests[pairs](groups, weights), tests[not pairs](groups, weights)
    by_seed = contrasts.seed_values(groups, weights)
    bound = _bound(claim)
    n = len(by_seed) or min(sample.n for sample in groups)
    p_for, p_against = _p_values(claim, primary, bound) if primary else (math.nan, math.nan)
    leans_for = not p_against < p_for  # also where nothing can be tested
    floor = floor_of(n) / (2 if _is_tost(claim, leans_for) else 1)
    two = len(groups) == 2
    found = Evidence(
        quantity=quantity,
        groups=tuple(groups),
        bound=bound,
        contrast=primary,
        secondary=other,
        p_for=p_for,
        p_against=p_against,
        n=n,
        floor=floor if all(sample.values for sample in groups) else 0.0,
        flips=None,
        correlation=contrasts.pair_correlation(*groups) if two else None,
        effect=effect_size(groups[0], groups[1], primary)
        if primary and two and not is_slope(claim)
        else None,
        single_sd=contrasts.single_sd(groups, weights, primary) if primary else math.nan,
    )
    if primary is None:
        return found
    used = [by_seed.keys() if pairs else sample.values.keys() for sample in groups]
    records = _records(claim, values, used)
    if records is not None:
        first_SN, second_SN = (np.stack(list(group.values())) for group in records)
        several = min(len(first_SN), len(second_SN)) > 1
        found = replace(
            found,
            images=image_interval(first_SN, second_SN),
            joint=joint_interval(first_SN, second_SN, pairs) if several else None,
        )
    return replace(found, flips=_flips(claim, by_seed, leans_for))


# ---- samples and weights ----


def _samples(claim: Claim, values: Values) -> tuple[str, list[Sample], list[float]]:
    wheres = claim.groups()
    values.check_comparable(wheres)
    if isinstance(claim, Interaction):
        return "interaction", _within(claim, values), [1.0, -1.0]
    groups = [values.sample(where, claim.metric) for where in wheres]
    if is_slope(claim):
        sizes = [values.size(where) for where in wheres]
        if len(set(sizes)) < 2:
            raise UntestableError("all students have the same number of parameters")
        return "slope", [logarithm(s) for s in groups], contrasts.slope_weights(sizes)
    if isinstance(claim, Ratio):
        return "ln ratio", [logarithm(sample) for sample in groups], [1.0, -1.0]
    return "difference", groups, [1.0, -1.0]


def _within(claim: Interaction, values: Values) -> list[Sample]:
    """first and second as samples of differences inside each seed."""
    found: list[Sample] = []
    for where in (claim.where | claim.first, claim.where | claim.second):
        own = values.sample(where, claim.metric)
        if "metric" in claim.minus:
            other = values.sample(where, str(claim.minus["metric"]))
        else:
            other = values.sample(where | claim.minus, claim.metric)
        if not own.values:
            raise UntestableError(f"no values of single seeds of {own.label}")
        inside = contrasts.seed_values([own, other], [1.0, -1.0])
        if not inside:
            raise UntestableError(f"{own.label} and {other.label} share no seed")
        # An effect needs both values of its seed, and either one may be missing.
        every = {*own.values, *own.gone, *other.values, *other.gone}
        gone = {
            seed: own.gone.get(seed) or other.gone.get(seed) or "without the other trial"
            for seed in sorted(every - inside.keys())
        }
        found.append(sample_of(inside, own.label, gone, max(own.scale, other.scale)))
    return found


def logarithm(sample: Sample) -> Sample:
    """The sample of ln(x). Of a summary, by the delta method: ln(mean) and sd / mean.

    Raises: UntestableError for a value that is not positive.
    """
    if min([*sample.values.values(), sample.mean]) <= 0:
        raise UntestableError(f"{sample.label}: a logarithm needs positive values")
    if sample.values:
        logs = {seed: math.log(value) for seed, value in sample.values.items()}
        # A relative error of x is an absolute one of ln x, which may itself be near 0.
        return sample_of(logs, sample.label, sample.gone, scale=1.0)
    sd = None if sample.sd is None else sample.sd / sample.mean
    return replace(sample, mean=math.log(sample.mean), sd=sd)


def _is_paired(claim: Claim, values: Values) -> bool:
    if claim.test != "auto":
        return claim.test == "paired"
    wheres: list[Where] = claim.groups()
    return values.pairs(wheres)


def _records(
    claim: Claim, values: Values, used: Sequence[Collection[int]]
) -> tuple[Records, Records] | None:
    """What first and second get right of each image by seed, whose means differ by theta.

    used: the seeds of first and of second that theta is of.
    """
    if isinstance(claim, Ratio) or is_slope(claim):
        return None
    wheres = claim.groups()[:2]
    if not isinstance(claim, Interaction):
        found = values.records(wheres, claim.metric, used)
        return (found[0], found[1]) if found else None
    other = str(claim.minus.get("metric", claim.metric))
    less = wheres if "metric" in claim.minus else [where | claim.minus for where in wheres]
    own, minus = values.records(wheres, claim.metric, used), values.records(less, other, used)
    if own is None or minus is None:
        return None
    if len({len(right_N) for one in (*own, *minus) for right_N in one.values()}) > 1:
        return None
    first, second = (
        {seed: a[seed] - b[seed] for seed in a} for a, b in zip(own, minus, strict=True)
    )
    return first, second


# ---- p values ----


def _bound(claim: Claim) -> float:
    if isinstance(claim, Ratio):
        return math.log(claim.bound)
    if isinstance(claim, Trend):
        return claim.margin if claim.direction == "rises" else 0.0 - claim.margin
    return 0.0 if isinstance(claim, Difference) else claim.margin


def _p_values(claim: Claim, contrast: Contrast, bound: float) -> tuple[float, float]:
    """(p for, p against) a claim; a decision in either direction is by a valid test of its own.

    A claim is |theta| < margin, without the margin itself. There TOST supports it, wrongly, with a
    chance of at most alpha; refuting it, by the two-sided test with alpha / 2, is right there.
    """
    if isinstance(claim, Equivalence):
        return contrast.p_inside(bound), contrast.p_outside(bound)
    both_sides = contrast.p_differs(bound)
    if isinstance(claim, Difference):
        return both_sides, contrast.p_inside(claim.margin) if claim.margin else 1.0
    assert isinstance(claim, Superiority | Trend | Ratio | Interaction)
    falls = isinstance(claim, Trend) and claim.direction == "falls"
    holds = contrast.estimate < bound if falls else contrast.estimate > bound
    return (both_sides, 1.0) if holds else (1.0, both_sides)


def _is_tost(claim: Claim, leans_for: bool) -> bool:
    """Whether the decision that the values lean to is that theta lies within a margin."""
    if isinstance(claim, Equivalence):
        return leans_for
    return isinstance(claim, Difference) and claim.margin is not None and not leans_for


def _flips(claim: Claim, by_seed: dict[int, float], leans_for: bool) -> float | None:
    """Exact sign-flip p of the decision that the values lean to; None without values by seed."""
    if not by_seed:
        return None

    def about(bound: float) -> float:
        return contrasts.sign_flip_p({seed: value - bound for seed, value in by_seed.items()})

    margin = claim.margin if isinstance(claim, Equivalence | Difference) else None
    if margin is None or (isinstance(claim, Difference) and leans_for):
        return about(_bound(claim))
    if _is_tost(claim, leans_for):
        # Two one-sided tests: half of the two-sided p at the nearer margin.
        return max(about(margin), about(-margin)) / 2
    # Outside: against the nearest value that the claim allows, the margin on theta's own side.
    return about(math.copysign(margin, sum(by_seed.values())))
