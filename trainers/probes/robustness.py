"""How accuracy and embeddings hold under corruption of the test images.

The classifier is the one fitted on clean train embeddings. Draws of a corruption are a pure
function of (seed, key, view), so every student and the teacher are measured on exactly the same
corrupted images. For a teacher whose model is not available, the figures that were measured when
its shards were built are used (`FeatureBank.figures`).

`robustness` measures under all corruptions but those in frequency space, which `frequency` does. It
also tests, for a few corruptions (`adapt_arms`), whether information is lost or only moved to where
the classifier does not find it: it fits the classifier on train images under the same corruption,
recomputes BatchNorm's statistics from them, and does both.

`frequency`: noise in one band, low and high passes, and single waves (a Fourier heat map; Yin et
al., NeurIPS 2019). These act after normalisation at the input's own resolution; frequencies are
shares of the Nyquist frequency of the original images (`shards.arms.frequency`).
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
from shards.measures.corruption import Figures
from shards.measures.linear_probe import accuracy
from trainers.probes.base import Probe, Value
from trainers.probes.censored import CENSORED
from trainers.probes.corrupted import Measured, measured_under, right_under, shares
from trainers.probes.features import FeatureBank, Subject
from trainers.probes.linear import LINEAR, paper_classifier
from trainers.probes.spectrum import SPECTRUM

FREQUENCY_FAMILIES = ("band_noise", "low_pass", "high_pass", "fourier")
NOISES = ("noise/pixel", "noise/paper")
MEANS = ("corruption", "stored")  # families of which a mean over all members is given


def family(spec: str) -> str:
    """The first part of an arm's metric name: `noise`, `corruption`, `band_noise`, ..."""
    return make_arm(spec).metric.split("/")[0]


# ---- each corruption ----


def all_measured(bank: FeatureBank, frequency: bool) -> dict[str, Measured]:
    """{spec: what was measured} of the test arms in frequency space, or of all others."""
    specs = [s for s in bank.test_arms if (family(s) in FREQUENCY_FAMILIES) == frequency]
    found = {spec: measured_under(bank, spec) for spec in specs}
    return {spec: measured for spec, measured in found.items() if measured is not None}


def _values(spec: str, measured: Measured) -> Iterator[tuple[str, Value]]:
    """The figures of one corruption and which images are right under it, by name."""
    metric = make_arm(spec).metric
    for figure, value in measured.figures.items():
        yield f"{metric}/{figure}", value
    if measured.correct is not None:
        yield f"{metric}/correct", measured.correct


# ---- summaries over corruptions ----


def half_severity(accuracies: Mapping[float, float], clean: float, chance: float) -> float:
    """The severity at which half of the clean accuracy above chance is lost.

    The first severity s with accuracy(s) = chance + (clean - chance) / 2, in the unit of the
    severities, higher is better. accuracies: {severity: accuracy}, severity 0 being `clean`; it is
    interpolated linearly between measured severities. Infinite where no accuracy is that low: the
    severity is then above the largest measured. NaN where the clean accuracy is not above chance.
    """
    goal = chance + (clean - chance) / 2
    points = sorted(({0.0: clean} | {s: a for s, a in accuracies.items() if s > 0}).items())
    if not clean > chance:
        return math.nan
    for (low, above), (high, below) in itertools.pairwise(points):
        if below <= goal:
            return low + (above - goal) / (above - below) * (high - low)
    return math.inf


def _halves(
    bank: FeatureBank, found: Mapping[str, Figures], clean: float
) -> Iterator[tuple[str, float]]:
    """`half_severity` of every noise that was measured at some strength above 0.

    A value above the largest strength is censored: all that is known is that bound, which is given
    under the value's name and CENSORED. The value itself is then undefined.
    """
    chance = 1 / (len(bank.classes) or len(np.unique(bank.train_labels_N)))
    for noise in NOISES:
        curve = {
            float(make_arm(spec).options["sigma"]): figures["accuracy"]
            for spec, figures in found.items()
            if make_arm(spec).metric.startswith(f"{noise}/")
        }
        if any(sigma > 0 for sigma in curve):
            half = half_severity(curve, clean, chance)
            yield f"{noise}/half", half
            if half == math.inf:
                yield f"{noise}/half{CENSORED}", max(curve)


def _means(bank: FeatureBank, found: Mapping[str, Figures]) -> Iterator[tuple[str, float]]:
    """Mean accuracy over the corruptions of each family, and over those seen in training or not.

    A family of which some corruption could not be measured has no mean, since it would be a mean
    over other corruptions than a student's. CIFAR-10-C's four extra corruptions are in no mean.
    """
    trained = corruptions_in(make_arm(bank.trained_on)) if bank.trained_on else frozenset[str]()
    for kind in MEANS:
        specs = [spec for spec in bank.test_arms if family(spec) == kind and not is_extra(spec)]
        if not specs or not all(spec in found for spec in specs):
            continue
        under = {spec: found[spec]["accuracy"] for spec in specs}
        seen = [a for spec, a in under.items() if corruptions_in(make_arm(spec)) & trained]
        unseen = [a for spec, a in under.items() if not corruptions_in(make_arm(spec)) & trained]
        yield f"{kind}/arms", float(len(under))
        yield f"{kind}/mean/accuracy", float(np.mean(list(under.values())))
        if unseen:
            yield f"{kind}/unseen/accuracy", float(np.mean(unseen))
        if seen:
            yield f"{kind}/seen/accuracy", float(np.mean(seen))


# ---- adaptation ----


def _refitted(bank: FeatureBank, subject: Subject, spec: str) -> FeatureBank | None:
    """The bank with train images under `spec` instead of clean ones, to fit a classifier on."""
    train_ND = subject.embed("train", spec, 0)
    return None if train_ND is None else replace(bank, train_ND=train_ND, cache={})


def adapted(bank: FeatureBank, spec: str) -> Iterator[tuple[str, Value]]:
    """Accuracy after adapting the classifier, BatchNorm, or both to train images under `spec`.

    With it which images are right, as under the corruption without adaptation.
    """
    name = make_arm(spec).metric
    subjects = {"": bank.subject, "recalibrated": bank.subject.recalibrated(spec)}
    for before, subject in subjects.items():
        if subject is None:
            continue
        fits = {"": bank if before else None, "refitted": _refitted(bank, subject, spec)}
        for after, fitted in fits.items():
            right = None if fitted is None else right_under(bank, spec, subject, fitted)
            if right is not None:
                way = "_".join(filter(None, (before, after)))
                scores = [float(one.mean()) for one in right]
                yield f"{name}/{way}/accuracy", float(np.mean(scores))
                yield f"{name}/{way}/correct", shares(right)


# ---- the probes ----


def robustness(bank: FeatureBank) -> Iterator[tuple[str, Value]]:
    """Figures of each corruption, half severities, means, and accuracies after adaptation."""
    measured = all_measured(bank, frequency=False)
    for spec, one in measured.items():
        yield from _values(spec, one)
    found = {spec: one.figures for spec, one in measured.items()}
    if found:
        clean = accuracy(paper_classifier(bank), bank.test_ND, bank.test_labels_N)
        yield from _halves(bank, found, clean)
        yield from _means(bank, found)
    for spec in bank.adapt_arms:
        yield from adapted(bank, spec)


def frequency(bank: FeatureBank) -> Iterator[tuple[str, Value]]:
    """Figures of each band and filter; of single waves, arrays over all waves of one strength.

    `fourier/S/accuracy` and `fourier/S/cosine` are heat maps as flat lists over the waves, whose
    frequencies are in `fourier/S/down` and `fourier/S/across`.
    """
    waves: dict[float, dict[str, Figures]] = {}
    for spec, one in all_measured(bank, frequency=True).items():
        if family(spec) == "fourier":  # hundreds of waves: no images of each
            sigma = float(make_arm(spec).options["sigma"])
            waves.setdefault(sigma, {})[spec] = one.figures
        else:
            yield from _values(spec, one)
    for sigma, found in waves.items():
        for side in ("down", "across"):
            shares = [float(make_arm(spec).options[side]) for spec in found]
            yield f"fourier/{sigma:g}/{side}", shares
        for figure in ("accuracy", "cosine"):
            yield f"fourier/{sigma:g}/{figure}", [figures[figure] for figures in found.values()]


ROBUSTNESS = Probe(
    robustness,
    revision=5,
    uses=(LINEAR, SPECTRUM),
    default=True,
    metrics="""
ARM/accuracy | share | 0 to 1 | higher
    accuracy of linear/paper's classifier on corrupted test images; mean over draws
ARM/accuracy_sd | share | 0 to 1 | lower
    standard deviation of that over draws (ddof = 1)
ARM/cosine | cosine | -1 to 1 | higher
    mean cosine of an image's corrupted embedding to its clean one
ARM/rank | dimensions | 1 to min(N - 1, D) | neither
    effective rank of the corrupted embeddings
noise/SPACE/half | strength | 0 upwards | higher
    noise at which half of the clean accuracy above chance is lost
noise/SPACE/half/above | strength | 0 upwards | higher
    the largest noise measured, only where half is not lost there: noise/SPACE/half is above it
ARM/correct | shares | 0 to 1 | neither
    array: for each test image the share of draws in which it is right, for paired comparisons
ANY/refitted/accuracy | share | 0 to 1 | higher
    ARM/accuracy with a classifier fitted on train images under the same corruption
ANY/recalibrated/accuracy | share | 0 to 1 | higher
    ARM/accuracy with BatchNorm's statistics recomputed from such train images
ANY/recalibrated_refitted/accuracy | share | 0 to 1 | higher
    the same with both: if it is still low, information is lost, not moved
ANY/ADAPTED/correct | shares | 0 to 1 | neither
    array: the same after that adaptation
KIND/arms | arms | 1 upwards | neither
    how many corruptions and severities the means are over
KIND/mean/accuracy | share | 0 to 1 | higher
    mean of ARM/accuracy over them
KIND/unseen/accuracy | share | 0 to 1 | higher
    mean over those that the student was not trained on
KIND/seen/accuracy | share | 0 to 1 | higher
    mean over those that it was trained on
""",
)

FREQUENCY = Probe(
    frequency,
    revision=2,
    uses=(ROBUSTNESS,),
    default=True,
    metrics="""
BAND/accuracy | share | 0 to 1 | higher
    accuracy of linear/paper's classifier under noise of one band, or with frequencies removed
BAND/accuracy_sd | share | 0 to 1 | lower
    standard deviation of that over draws (ddof = 1)
BAND/cosine | cosine | -1 to 1 | higher
    mean cosine of an image's embedding after that to its clean one
BAND/rank | dimensions | 1 to min(N - 1, D) | neither
    effective rank of the embeddings after that
BAND/correct | shares | 0 to 1 | neither
    array: for each test image the share of draws in which it is right
fourier/S/accuracy | shares | 0 to 1 | higher
    array: accuracy under single waves of strength S, a heat map
fourier/S/cosine | cosines | -1 to 1 | higher
    array: cosine to the clean embedding under each wave
fourier/S/down | shares of Nyquist | 0 to 1 | neither
    array: each wave's vertical frequency
fourier/S/across | shares of Nyquist | -1 to 1 | neither
    array: each wave's horizontal frequency
""",
)
