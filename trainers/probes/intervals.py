"""How far accuracies and ranks would move with other test images.

See `shards.measures.resampling`: 95 % intervals, and ranks at sample sizes that test sets share.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shards.measures.resampling import SIZES, proportion_interval, rank_curve, rank_intervals
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.linear import LINEAR, paper_classifier, standard_classifier
from trainers.probes.neighbours import NEIGHBOURS, neighbour_predictions
from trainers.probes.spectrum import SPECTRUM
from trainers.probes.zero_shot import ZERO_SHOT, zero_shot_predictions

ENDS = ("low", "high")


def correct(bank: FeatureBank) -> dict[str, NDArray[np.bool_]]:
    """{classifier: (N,) which clean test images it gets right}."""
    predictions = {
        "linear/paper": paper_classifier(bank).predict(bank.test_ND),
        "linear/standard": standard_classifier(bank).predict(bank.test_ND),
        "knn": neighbour_predictions(bank),
        "zero_shot": zero_shot_predictions(bank),
    }
    return {
        name: predicted_N == bank.test_labels_N
        for name, predicted_N in predictions.items()
        if predicted_N is not None
    }


def intervals(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """95 % intervals over clean test images, which images are right, and ranks at common N."""
    for classifier, correct_N in correct(bank).items():
        yield f"{classifier}/correct", correct_N.astype(np.float64).tolist()
        for end, value in zip(ENDS, proportion_interval(correct_N), strict=True):
            yield f"{classifier}/accuracy/{end}", value
    for measure, interval in rank_intervals(bank.test_ND, bank.seed).items():
        for end, value in zip(ENDS, interval, strict=True):
            yield f"rank/{measure}/{end}", value
    curve = rank_curve(bank.test_ND, bank.seed)
    for size, rank in curve:
        if size in SIZES:
            yield f"rank/at/{size}", rank
    yield "rank/curve/n", [float(size) for size, _ in curve]
    yield "rank/curve/effective", [rank for _, rank in curve]


INTERVALS = Probe(
    intervals,
    revision=4,
    uses=(LINEAR, SPECTRUM, NEIGHBOURS, ZERO_SHOT),
    class_images=2,  # one of them is held out to choose C
    default=True,
    metrics="""
linear/PROTOCOL/accuracy/END | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (Wilson)
knn/accuracy/END | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (Wilson)
zero_shot/accuracy/END | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (Wilson)
linear/PROTOCOL/correct | 0 or 1 | 0 to 1 | neither
    array: whether each test image is right, for paired comparisons
knn/correct | 0 or 1 | 0 to 1 | neither
    array: whether each test image is right
zero_shot/correct | 0 or 1 | 0 to 1 | neither
    array: whether each test image is right
rank/MEASURE/END | dimensions | 0 upwards | neither
    95 % interval of that rank over test images (jackknife); roy_vetterli twice too wide at N < D
rank/at/COUNT | dimensions | 1 to D | neither
    effective rank of COUNT test images, mean over disjoint subsets
rank/curve/n | images | 2 to N | neither
    array: numbers of images
rank/curve/effective | dimensions | 1 to D | neither
    array: effective rank of as many images
""",
)
