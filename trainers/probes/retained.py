"""How much of the teacher the embeddings retain, and the rank that shrinkage alone would give.

See `shards.measures.retained`: it tells regression to the mean from collapse.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.measures.moments import Moments
from shards.measures.retained import Retained, rank_ratio, retained_variance
from shards.measures.spectrum import RANKS
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank, Floats
from trainers.probes.spectrum import SPECTRUM


def retained(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Fitted on the clean train embeddings, evaluated on the clean test embeddings."""
    found = _of(bank, bank.train_ND, bank.test_ND)
    for name, measure in RANKS.items():
        yield f"retained/rank/{name}", measure(found.predicted_K)
    ratio = rank_ratio(found, bank.test_ND, len(bank.train_ND), bank.seed)
    yield "retained/rank/ratio", ratio.ratio
    yield "retained/rank/ratio/low", ratio.low
    yield "retained/rank/ratio/high", ratio.high
    yield "retained/share", found.share
    yield "retained/r2", found.r2_K.tolist()
    yield "retained/variance", found.kept_K.tolist()
    train_NF, test_NF = bank.subject.penultimate("train"), bank.subject.penultimate("test")
    if train_NF is not None and test_NF is not None:
        yield "retained/penultimate/share", _of(bank, train_NF, test_NF).share


def _of(bank: FeatureBank, train_NF: Floats, test_NF: Floats) -> Retained:
    train = Moments.of(train_NF, bank.teacher_train_ND)
    test = Moments.of(test_NF, bank.teacher_ND)
    return retained_variance(train, test, test_NF.shape[1])


RETAINED = Probe(
    retained,
    revision=3,
    uses=(SPECTRUM,),
    default=True,
    metrics="""
retained/rank/MEASURE | dimensions | 1 to D | neither
    rank that shrinkage alone would give: of the best linear prediction of the teacher
retained/rank/ratio | ratio | 0 upwards | neither
    the student's effective rank over that; well below 1: collapse, above: unrelated variation
retained/rank/ratio/END | ratio | 0 upwards | neither
    95 % interval of it, by a jackknife over test images
retained/share | share | 0 to 1 | higher
    share of the teacher's variance that the student predicts linearly
retained/penultimate/share | share | 0 to 1 | higher
    the same from the features before the last layer: what its linear map throws away
retained/r2 | R^2 | up to 1 | higher
    array: R^2 of each of the teacher's components from the student
retained/variance | variance | 0 to 1 | neither
    array: variance times R^2 of each
""",
)
