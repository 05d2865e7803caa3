"""One corruption of the test images: its figures, and which images are right under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.arms import make_arm
from shards.measures.corruption import Draw, Figures, figures_of, measure_draw
from trainers.probes.features import FeatureBank, Floats, Subject
from trainers.probes.linear import paper_classifier

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What one corruption does.

    figures: averaged over its draws, see `shards.measures.corruption.figures_of`. correct: for each
    test image the share of draws in which the classifier gets it right, in [0, 1], in the order of
    the bank; None where only stored figures are known.
    """

    figures: Figures
    correct: list[float] | None = None


def measured_under(bank: FeatureBank, spec: str) -> Measured | None:
    """What a corruption does to the subject; None where that can neither be measured nor is stored.

    Computed where the subject can be embedded, else the figures that the shards hold. The two
    probes and their means share it, so each is computed once per bank.
    """
    return bank.cached(f"robustness/{spec}", lambda: _measured(bank, spec) or _stored(bank, spec))


def _stored(bank: FeatureBank, spec: str) -> Measured | None:
    figures = bank.figures.get(spec)
    return None if figures is None else Measured(figures)


def _measured(bank: FeatureBank, spec: str) -> Measured | None:
    draws: list[Draw] = []
    right: list[Right] = []

    def score(x_ND: Floats) -> float:
        right.append(_right(bank, x_ND, bank))
        return float(right[-1].mean())

    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = bank.subject.embed("test", spec, view)
        if x_ND is None:
            return None  # a mean over fewer draws than other subjects have is not comparable
        draws.append(measure_draw(x_ND, bank.test_ND, score))
    return Measured(figures_of(draws), shares(right))


def right_under(
    bank: FeatureBank, spec: str, subject: Subject, fitted: FeatureBank
) -> list[Right] | None:
    """For each draw, (N,) which corrupted images the classifier of `fitted` gets right.

    None where the subject cannot be embedded.
    """
    right: list[Right] = []
    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = subject.embed("test", spec, view)
        if x_ND is None:
            return None
        right.append(_right(fitted, x_ND, bank))
    return right


def _right(fitted: FeatureBank, x_ND: Floats, bank: FeatureBank) -> Right:
    return np.asarray(paper_classifier(fitted).predict(x_ND)) == bank.test_labels_N


def shares(right: Sequence[Right]) -> list[float]:
    """For each image the share of draws in which it is right."""
    return (np.sum(right, axis=0) / len(right)).tolist()
