"""How accuracy and embeddings hold under corruption of the test images.

The classifier is the one fitted on clean train embeddings. Draws are a pure function of (seed,
key, view), so every student and the teacher meet exactly the same corrupted images. A teacher
that is not at hand has the figures that were measured when its shards were built.

Whether information is lost or only moved is asked of a few arms (`adapt_arms`): the classifier
fitted again on train images under the same corruption, BatchNorm's statistics taken again from
them, and both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from shards.arms import make_arm
from shards.arms.cifar10c_files import is_extra
from shards.arms.corruption_arms import corruptions_in
from shards.measures.corruption import Draw, Figures, figures_of, measure_draw
from trainers.probes.features import FeatureBank, Subject
from trainers.probes.linear import accuracy, classifier
from trainers.probes.spectrum import effective_rank

FREQUENCY = ("band_noise", "low_pass", "high_pass", "fourier")  # families of the other probe
NOISES = ("noise/pixel", "noise/paper")
MEANS = ("corruption", "stored")


def family(spec: str) -> str:
    """The first part of an arm's path: `noise`, `corruption`, `band_noise`, ..."""
    return make_arm(spec).metric.split("/")[0]


def figures_under(bank: FeatureBank, spec: str) -> Figures | None:
    """Figures of a corruption averaged over its draws, see `shards.measures.corruption.figures_of`.

    Computed where the subject can be embedded, else those that the shards hold, else None.
    """
    cached = bank.cache.setdefault("figures", {})
    if spec not in cached:
        cached[spec] = _measured(bank, spec) or bank.figures.get(spec)
    return cached[spec]


def _measured(bank: FeatureBank, spec: str) -> Figures | None:
    draws: list[Draw] = []
    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = bank.subject.embed("test", spec, view)
        if x_ND is None:
            return None  # fewer draws than the others have would not be compared with like
        draws.append(
            measure_draw(
                x_ND,
                bank.test_ND,
                lambda rows_ND: accuracy(classifier(bank), rows_ND, bank.test_labels_N),
                effective_rank,
            )
        )
    return figures_of(draws)


def all_figures(bank: FeatureBank, families: tuple[str, ...], inside: bool) -> dict[str, Figures]:
    """{spec: figures} of the test arms whose family is, or is not, among `families`."""
    chosen = [spec for spec in bank.test_arms if (family(spec) in families) == inside]
    found = {spec: figures_under(bank, spec) for spec in chosen}
    return {spec: figures for spec, figures in found.items() if figures is not None}


def half_severity(accuracies: Mapping[float, float], clean: float, chance: float) -> float:
    """The severity at which half of the clean accuracy above chance is gone.

    `accuracies`: {severity: accuracy}; severity 0 is `clean`. Linear between measured severities,
    at the first crossing; NaN where it is never crossed, or clean is not above chance.
    """
    goal = chance + (clean - chance) / 2
    points = sorted(({0.0: clean} | {s: a for s, a in accuracies.items() if s > 0}).items())
    if not clean > chance:
        return math.nan
    for (low, above), (high, below) in itertools.pairwise(points):
        if below <= goal:
            return low + (above - goal) / (above - below) * (high - low)
    return math.nan


def _halves(
    bank: FeatureBank, found: Mapping[str, Figures], clean: float
) -> Iterator[tuple[str, float]]:
    """For every noise that was measured at some strength: where half of the accuracy is gone."""
    chance = 1 / (len(bank.classes) or len(np.unique(bank.train_labels_N)))
    for noise in NOISES:
        curve = {
            float(make_arm(spec).options["sigma"]): figures["accuracy"]
            for spec, figures in found.items()
            if make_arm(spec).metric.startswith(f"{noise}/")
        }
        if any(sigma > 0 for sigma in curve):
            yield f"{noise}/half", half_severity(curve, clean, chance)


def _means(bank: FeatureBank, found: Mapping[str, Figures]) -> Iterator[tuple[str, float]]:
    """Mean accuracy over the corruptions of each kind; those trained on also apart.

    Nothing where some of a kind are missing: its mean would be over others than a student's.
    CIFAR-10-C's four extra corruptions are in no mean.
    """
    trained = corruptions_in(make_arm(bank.trained_on)) if bank.trained_on else frozenset[str]()
    for kind in MEANS:
        asked = [spec for spec in bank.test_arms if family(spec) == kind and not is_extra(spec)]
        if not asked or not all(spec in found for spec in asked):
            continue
        under = {spec: found[spec]["accuracy"] for spec in asked}
        seen = [a for spec, a in under.items() if corruptions_in(make_arm(spec)) & trained]
        unseen = [a for spec, a in under.items() if not corruptions_in(make_arm(spec)) & trained]
        yield f"{kind}/arms", float(len(under))
        yield f"{kind}/mean/accuracy", float(np.mean(list(under.values())))
        if unseen:
            yield f"{kind}/unseen/accuracy", float(np.mean(unseen))
        if seen:
            yield f"{kind}/seen/accuracy", float(np.mean(seen))


def _score(bank: FeatureBank, subject: Subject, spec: str, fitted: FeatureBank) -> float | None:
    """Accuracy on a subject's corrupted test images of the classifier of `fitted`, over draws."""
    scores: list[float] = []
    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = subject.embed("test", spec, view)
        if x_ND is None:
            return None
        scores.append(accuracy(classifier(fitted), x_ND, bank.test_labels_N))
    return float(np.mean(scores))


def _refitted(bank: FeatureBank, subject: Subject, spec: str) -> FeatureBank | None:
    """The bank with the train images under `spec` in the place of the clean ones."""
    train_ND = subject.embed("train", spec, 0)
    return None if train_ND is None else replace(bank, train_ND=train_ND, cache={})


def adapted(bank: FeatureBank, spec: str) -> Iterator[tuple[str, float]]:
    """Accuracy once the classifier, BatchNorm, or both have seen train images under `spec`."""
    name = make_arm(spec).metric
    subjects = {"": bank.subject, "recalibrated": bank.subject.recalibrated(spec)}
    for before, subject in subjects.items():
        if subject is None:
            continue
        fits = {"": bank if before else None, "refitted": _refitted(bank, subject, spec)}
        for after, fitted in fits.items():
            score = None if fitted is None else _score(bank, subject, spec, fitted)
            if score is not None:
                yield f"{name}/{'_'.join(filter(None, (before, after)))}/accuracy", score


def robustness(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Figures of each corruption, where half is lost, means, and what adapting gives back."""
    found = all_figures(bank, FREQUENCY, inside=False)
    for spec, figures in found.items():
        for figure, value in figures.items():
            yield f"{make_arm(spec).metric}/{figure}", value
    if found:
        clean = accuracy(classifier(bank), bank.test_ND, bank.test_labels_N)
        yield from _halves(bank, found, clean)
        yield from _means(bank, found)
    for spec in bank.adapt_arms:
        yield from adapted(bank, spec)
