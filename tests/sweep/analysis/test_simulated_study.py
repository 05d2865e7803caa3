"""A simulated study with known truth: how often verdicts are wrong.

100 synthetic runs a case. Each rate is held against its nominal value with a binomial bound: of
100 runs with an error rate of at most alpha, more than `binom.ppf(0.999, 100, alpha)` errors happen
in one of a thousand studies. The draws are seeded, so the outcome is always the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from sweep.analysis.claims import Claims, Where, read_claims
from sweep.analysis.power import welch_power
from sweep.analysis.samples import Sample, sample_of
from sweep.analysis.values import Records
from sweep.analysis.verdicts import verdicts_of, verdicts_of_trials

RUNS = 100
ALPHA = 0.05
SIZES = {"width:1": 811_264, "width:2": 1_405_440, "width:4": 2_732_032}
METRIC = "test/linear/paper/accuracy"

SUPERIORITY = """
claims:
  - {name: S beats L, kind: superiority, metric: test/linear/paper/accuracy,
     first: {student: width:1}, second: {student: width:4}, where: {arm: clean}}
"""
PAIRED = """
claims:
  - {name: noise beats clean, kind: superiority, metric: test/linear/paper/accuracy,
     first: {arm: noise:0.1}, second: {arm: clean}, where: {student: width:1}}
"""
EQUIVALENCE = """
claims:
  - {name: S is as L, kind: equivalence, metric: test/linear/paper/accuracy, margin: 0.02,
     first: {student: width:1}, second: {student: width:4}, where: {arm: clean}}
"""
SLOPE = """
claims:
  - {name: rank does not depend on capacity, kind: equivalence, metric: test/rank/effective,
     along: {student: [width:1, width:2, width:4]}, where: {arm: clean}, margin: 0.05}
"""
FAMILY = """
claims:
""" + "\n".join(
    f"  - {{name: claim {i}, kind: superiority, metric: test/m/{i},"
    " first: {student: width:1}, second: {student: width:4}, where: {arm: clean}}"
    for i in range(6)
)

Draw = Callable[[np.random.Generator, str, str, int], dict[str, float]]


def at_most(rate: float, runs: int = RUNS) -> int:
    return int(binom.ppf(0.999, runs, rate))


def study(text: str, n: int, draw: Draw, runs: int = RUNS) -> list[list[str]]:
    """Verdicts of each of `runs` synthetic runs of n seeds; `draw` gives a trial's metrics."""
    claims: Claims = read_claims(text, "study")
    found: list[list[str]] = []
    for run in range(runs):
        rng = np.random.default_rng([20261128, run])
        rows = [
            {"trial": f"{student} {arm} {seed}", "status": "finished", "student": student}
            | {"arm": arm, "seed": seed, "student.parameters": SIZES[student]}
            | draw(rng, student, arm, seed)
            for seed in range(n)
            for student in SIZES
            for arm in ("clean", "noise:0.1")
            if arm in text and student in text
        ]
        verdicts = verdicts_of_trials(claims, pd.DataFrame(rows))
        found.append([verdict.verdict for verdict in verdicts])
    return found


def accuracies(effect_S: float = 0.0, sd: float = 0.01) -> Draw:
    """width:1 is better by effect_S, in standard deviations of one trial."""

    def draw(rng: np.random.Generator, student: str, arm: str, seed: int) -> dict[str, float]:
        shift = effect_S if student == "width:1" else 0.0
        return {METRIC: 0.7 + sd * (shift + rng.standard_normal())}

    return draw


class Drawn:
    """Values of both groups of SUPERIORITY for the seeds that a look sees, without an effect."""

    def __init__(self, values_GS: np.ndarray) -> None:
        self.samples = [sample_of(dict(enumerate(map(float, row_S)))) for row_S in values_GS]

    def sample(self, where: Where, metric: str) -> Sample:
        return self.samples[where["student"] == "width:4"]

    def check_comparable(self, groups: Sequence[Where]) -> None:
        pass

    def pairs(self, groups: Iterable[Where]) -> bool:
        return False

    def size(self, where: Where) -> float:
        return 1.0

    def records(
        self, groups: Sequence[Where], metric: str, seeds: Sequence[Collection[int]]
    ) -> list[Records] | None:
        return None

    def movement(self, where: Where) -> float | None:
        return None


@pytest.mark.parametrize("planned", ["", "looks: [6, 12]"])
def test_two_looks_together_decide_wrongly_at_most_as_often_as_alpha(
    planned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the program does: a look at 6 seeds, and unless it decides another one at 12."""
    # They are no part of a verdict, and take most of the time.
    monkeypatch.setattr("sweep.analysis.verdicts._seeds_needed", lambda *_: None)
    monkeypatch.setattr("sweep.analysis.evidence.effect_size", lambda *_: None)
    claims, runs, wrong, hints = read_claims(planned + SUPERIORITY, "x"), 1500, 0, 0
    draws = np.random.default_rng(31).standard_normal((runs, 2, 12))
    for values_GS in draws:
        for looks in ((6,), (6, 12)):
            (one,) = verdicts_of(claims, Drawn(values_GS[:, : looks[-1]]), looks=looks)
            if one.verdict in ("supported", "refuted"):
                wrong += not one.exploratory
                hints += one.exploratory
                break
    assert wrong <= at_most(ALPHA, runs)
    assert (hints > 0) is (planned == "")
    # As confirmations, the second looks of those without a plan would be wrong too often.
    assert planned or wrong + hints > at_most(ALPHA, runs)


def count(found: list[list[str]]) -> Counter[str]:
    return Counter(verdicts[0] for verdicts in found)


def test_no_effect_is_decided_at_most_as_often_as_alpha() -> None:
    found = count(study(SUPERIORITY, 10, accuracies(0.0)))
    assert found["supported"] + found["refuted"] <= at_most(ALPHA)
    assert set(found) <= {"supported", "refuted", "inconclusive"}


def test_an_effect_of_one_deviation_is_found_as_often_as_its_power() -> None:
    found = count(study(SUPERIORITY, 10, accuracies(1.0)))
    power = welch_power(1.0, 10, ALPHA)
    assert binom.ppf(0.001, RUNS, power) <= found["supported"] <= at_most(power)
    assert found["refuted"] <= at_most(ALPHA / 2)
    assert found["inconclusive"] == RUNS - found["supported"] - found["refuted"]


def test_three_seeds_decide_nothing_even_of_ten_deviations() -> None:
    assert count(study(SUPERIORITY, 3, accuracies(10.0), 20)) == {"undecidable": 20}


def test_pairs_share_their_noise_and_the_paired_test_sees_through_it() -> None:
    """A correlation of 0.9: an effect of one deviation is 2.2 deviations of the differences."""

    def draw(rng: np.random.Generator, student: str, arm: str, seed: int) -> dict[str, float]:
        shared = np.random.default_rng([int(rng.bit_generator.seed_seq.entropy[1]), seed])
        effect = 1.0 if arm != "clean" else 0.0
        noise = math.sqrt(0.9) * shared.standard_normal() + math.sqrt(0.1) * rng.standard_normal()
        return {METRIC: 0.7 + 0.01 * (effect + noise)}

    found = count(study(PAIRED, 10, draw, 50))
    assert found["supported"] >= 49


@pytest.mark.parametrize(
    ("deviations", "wrong", "right"), [(0.0, "refuted", "supported"), (4.0, "supported", "refuted")]
)
def test_equivalence_well_inside_and_outside_its_margin(
    deviations: float, wrong: str, right: str
) -> None:
    """The margin is 2 deviations of a trial."""
    found = count(study(EQUIVALENCE, 10, accuracies(deviations)))
    assert found[wrong] <= at_most(ALPHA)
    assert found[right] >= binom.ppf(0.001, RUNS, 0.95)


def test_equivalence_at_its_margin_is_supported_at_most_as_often_as_alpha() -> None:
    """At the margin the claim is false, so that only `supported` is wrong there."""
    found = count(study(EQUIVALENCE, 10, accuracies(2.0)))
    assert found["supported"] <= at_most(ALPHA)
    assert found["refuted"] <= at_most(ALPHA / 2)


@pytest.mark.parametrize(
    ("slope", "wrong", "right"), [(0.0, "refuted", "supported"), (0.1, "supported", "refuted")]
)
def test_slope_of_rank_inside_and_outside_its_margin(slope: float, wrong: str, right: str) -> None:
    def draw(rng: np.random.Generator, student: str, arm: str, seed: int) -> dict[str, float]:
        growth = slope * math.log(SIZES[student] / 1e6)
        return {"test/rank/effective": 16 * math.exp(growth + 0.02 * rng.standard_normal())}

    found = count(study(SLOPE, 10, draw))
    assert found[wrong] <= at_most(ALPHA)
    assert found[right] >= binom.ppf(0.001, RUNS, 0.95)


def test_of_a_family_without_effects_any_is_decided_at_most_as_often_as_alpha() -> None:
    def draw(rng: np.random.Generator, student: str, arm: str, seed: int) -> dict[str, float]:
        return {f"test/m/{i}": float(value) for i, value in enumerate(rng.standard_normal(6))}

    found = study(FAMILY, 8, draw, 50)
    wrong = sum(bool({"supported", "refuted"} & set(verdicts)) for verdicts in found)
    assert wrong <= at_most(ALPHA, 50)
    assert not any("undecidable" in verdicts for verdicts in found)
