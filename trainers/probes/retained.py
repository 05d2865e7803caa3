"""How much of the teacher the embeddings retain, and the rank that shrinkage alone would give.

See `shards.measures.retained`: it tells regression to the mean from collapse.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.measures.moments import Moments
from shards.measures.retained import retained_variance
from shards.measures.spectrum import RANKS, centred_eigenvalues, rank_from_eigenvalues
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.spectrum import SPECTRUM


def retained(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Fitted on the clean train embeddings, evaluated on the clean test embeddings."""
    width = bank.test_ND.shape[1]
    train = Moments.of(bank.train_ND, bank.teacher_train_ND)
    test = Moments.of(bank.test_ND, bank.teacher_ND)
    found = retained_variance(train, test, width)
    for name, measure in RANKS.items():
        yield f"retained/rank/{name}", measure(found.kept_K)
    expected = rank_from_eigenvalues(found.kept_K)
    rank = rank_from_eigenvalues(centred_eigenvalues(bank.test_ND))
    yield "retained/rank/ratio", rank / expected if expected > 0 else float("nan")
    total = float(found.variance_K.sum())
    yield "retained/share", float(found.kept_K.sum()) / total if total > 0 else float("nan")
    yield "retained/r2", found.r2_K.tolist()
    yield "retained/variance", found.kept_K.tolist()


RETAINED = Probe(
    retained,
    uses=(SPECTRUM,),
    default=True,
    metrics="""
retained/rank/MEASURE | dimensions | 1 to D | neither
    rank that shrinkage alone would give: of the teacher's variances, each times its R^2
retained/rank/ratio | ratio | 0 upwards | neither
    the student's effective rank over that; below 1: collapse beyond regression to the mean
retained/share | share | 0 to 1 | higher
    share of the teacher's variance that the student predicts linearly
retained/r2 | R^2 | up to 1 | higher
    array: R^2 of each of the teacher's components from the student
retained/variance | variance | 0 to 1 | neither
    array: variance times R^2 of each
""",
)
