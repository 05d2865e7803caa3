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
from shards.measures.corruption import Draw, Figures, figures_of, measure_draw
from shards.measures.linear_probe import accuracy
from trainers.probes.base import Probe, Value
from trainers.probes.censored import CENSORED
from trainers.probes.features import FeatureBank, Subject
from trainers.probes.linear import LINEAR, paper_classifier
from trainers.probes.spectrum import SPECTRUM

FREQUENCY_FAMILIES = ("band_noise", "low_pass", "high_pass", "fourier")
NOISES = ("noise/pixel", "noise/paper")
MEANS = ("corruption", "stored")  # families of which a mean over all members is given


def family(spec: str) -> str:
    """The first part of an arm's metric name: `noise`, `corruption`, `band_noise`, ..."""
    return make_arm(spec).metric.split("/")[0]


# ---- figures of one corruption ----


def figures_under(bank: FeatureBank, spec: str) -> Figures | None:
    """Figures of a corruption averaged over its draws, see `shards.measures.corruption.figures_of`.

    Computed where the subject can be embedded, else those that the shards hold, else None. The two
    probes and their means share them, so each is computed once per bank.
    """
    return bank.cached(
        f"robustness/{spec}", lambda: _measured(bank, spec) or bank.figures.get(spec)
    )


def _measured(bank: FeatureBank, spec: str) -> Figures | None:
    draws: list[Draw] = []
    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = bank.subject.embed("test", spec, view)
        if x_ND is None:
            return None  # a mean over fewer draws than other subjects have is not comparable
        draws.append(
            measure_draw(
                x_ND,
                bank.test_ND,
                lambda rows_ND: accuracy(paper_classifier(bank), rows_ND, bank.test_labels_N),
            )
        )
    return figures_of(draws)


def all_figures(bank: FeatureBank, frequency: bool) -> dict[str, Figures]:
    """{spec: figures} of the test arms in frequency space, or of all others."""
    specs = [s for s in bank.test_arms if (family(s) in FREQUENCY_FAMILIES) == frequency]
    found = {spec: figures_under(bank, spec) for spec in specs}
    return {spec: figures for spec, figures in found.items() if figures is not None}


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


def _score(bank: FeatureBank, subject: Subject, spec: str, fitted: FeatureBank) -> float | None:
    """Mean over draws of the accuracy that the classifier of `fitted` has on corrupted images."""
    scores: list[float] = []
    for view in range(make_arm(spec).views(bank.draws)):
        x_ND = subject.embed("test", spec, view)
        if x_ND is None:
            return None
        scores.append(accuracy(paper_classifier(fitted), x_ND, bank.test_labels_N))
    return float(np.mean(scores))


def _refitted(bank: FeatureBank, subject: Subject, spec: str) -> FeatureBank | None:
    """The bank with train images under `spec` instead of clean ones, to fit a classifier on."""
    train_ND = subject.embed("train", spec, 0)
    return None if train_ND is None else replace(bank, train_ND=train_ND, cache={})


def adapted(bank: FeatureBank, spec: str) -> Iterator[tuple[str, float]]:
    """Accuracy after adapting the classifier, BatchNorm, or both to train images under `spec`."""
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


# ---- the probes ----


def robustness(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Figures of each corruption, half severities, means, and accuracies after adaptation."""
    found = all_figures(bank, frequency=False)
    for spec, figures in found.items():
        for figure, value in figures.items():
            yield f"{make_arm(spec).metric}/{figure}", value
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
    for spec, figures in all_figures(bank, frequency=True).items():
        arm = make_arm(spec)
        if family(spec) == "fourier":
            waves.setdefault(float(arm.options["sigma"]), {})[spec] = figures
            continue
        for figure, value in figures.items():
            yield f"{arm.metric}/{figure}", value
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
ANY/refitted/accuracy | share | 0 to 1 | higher
    ARM/accuracy with a classifier fitted on train images under the same corruption
ANY/recalibrated/accuracy | share | 0 to 1 | higher
    ARM/accuracy with BatchNorm's statistics recomputed from such train images
ANY/recalibrated_refitted/accuracy | share | 0 to 1 | higher
    the same with both: if it is still low, information is lost, not moved
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
