"""How many dimensions the embeddings use, and how they relate to the teacher's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.measures.moments import EPS, Moments
from shards.measures.similarity import debiased_cka, mean_cosine, subspace_alignment
from shards.measures.spectrum import (
    RANKS,
    alpha,
    centred_eigenvalues,
    cumulative,
    dims_for,
    paper_rank,
    rankme,
    variance_shares,
    within_classes,
)
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank

SUBSPACES = (1, 10, 20, 50, 100)  # numbers k of the teacher's components


def spectrum(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Ranks and spectrum of the clean test embeddings, and how they relate to the teacher's."""
    moments = Moments.of(bank.test_ND)
    values_D = centred_eigenvalues(bank.test_ND, moments)
    for name, measure in RANKS.items():
        yield f"rank/{name}", measure(values_D)
    yield "rank/paper/effective", paper_rank(values_D)
    yield "rank/rankme", rankme(bank.test_ND, moments)
    # Embeddings are float32 unit vectors: rounding spreads a variance of about eps^2 over D
    # directions, and a power law must not be fitted to that.
    floor = float(np.finfo(np.float32).eps) ** 2 * moments.square / len(values_D)
    slope, r2 = alpha(values_D, max(floor, EPS * float(values_D[0])))
    yield "rank/alpha", slope
    yield "rank/alpha/r2", r2
    yield "rank/n", float(moments.count)
    for percent in (90, 95, 99):
        yield f"dims/{percent}", float(dims_for(values_D, percent / 100))
    yield "variance", moments.variance
    yield "spectrum", variance_shares(values_D).tolist()
    yield "spectrum/cumulative", cumulative(values_D).tolist()
    ranks, share = within_classes(bank.test_ND, bank.test_labels_N)
    for name, rank in ranks.items():
        yield f"rank/within_class/{name}", rank
    yield "variance/within_class", share
    yield from _relation_to_teacher(bank)
    yield from _penultimate(bank)


def _relation_to_teacher(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """CKA; cosine and shared subspaces where the subject lies in the teacher's space."""
    both = Moments.of(bank.test_ND, bank.teacher_ND)
    width = bank.test_ND.shape[1]
    yield "cka/debiased", debiased_cka(bank.test_ND, bank.teacher_ND, both)
    if not bank.in_teacher_space:
        return
    yield "cosine_to_teacher", mean_cosine(bank.test_ND, bank.teacher_ND)
    inside_K = subspace_alignment(both.part(0, width), both.part(width, len(both.mean_D)))
    yield "subspace", inside_K.tolist()
    for k in SUBSPACES:
        if k <= len(inside_K):
            yield f"subspace/{k}", float(inside_K[k - 1])


def _penultimate(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """The same ranks of the last linear layer's inputs, where the subject has such a layer."""
    raw_NF = bank.subject.penultimate("test")
    if raw_NF is None:
        return
    values_F = centred_eigenvalues(raw_NF)
    for name, measure in RANKS.items():
        yield f"rank/penultimate/{name}", measure(values_F)


SPECTRUM = Probe(
    spectrum,
    revision=3,
    default=True,
    metrics="""
rank/effective | dimensions | 1 to min(N - 1, D) | neither
    exp of the entropy of the shares of variance (the paper's effective rank)
rank/roy_vetterli | dimensions | 1 to min(N - 1, D) | neither
    the same of singular values (Roy and Vetterli); fp16 storage raises the teacher's, see The paper
rank/participation | dimensions | 1 to min(N - 1, D) | neither
    participation ratio, tr(C)^2 / tr(C^2)
rank/rankme | dimensions | 1 to min(N, D) | neither
    RankMe: of singular values, not centred; fp16 storage raises the teacher's, see The paper
rank/paper/effective | dimensions | 1 to min(N - 1, D) | neither
    rank/effective as the paper's code computes it, with 1e-10 inside the logarithm
rank/alpha | exponent | real | neither
    decay of the spectrum: minus the slope of ln variance on ln k, k = 4 to 100
rank/alpha/r2 | share | 0 to 1 | neither
    R^2 of that line; where it is low, rank/alpha means little
rank/n | images | 2 upwards | neither
    N of all these ranks; ranks of different N are not comparable
rank/within_class/MEASURE | dimensions | 1 to D | neither
    mean over classes of the rank inside a class
rank/penultimate/MEASURE | dimensions | 1 to F | neither
    rank of the F inputs of the last linear layer
dims/P | dimensions | 0 to D | neither
    fewest principal components that hold P % of the variance
variance | variance | 0 to 1 | neither
    total variance of the unit embeddings; small: a narrow cone
variance/within_class | share | 0 to 1 | neither
    share of the variance that lies inside classes
spectrum | shares | 0 to 1 | neither
    array: shares of variance of the principal components, largest first
spectrum/cumulative | shares | 0 to 1 | neither
    array: their running sum
cosine_to_teacher | cosine | -1 to 1 | higher
    mean cosine of an image's embedding to the teacher's of the same image
cka/debiased | similarity | about 0 to 1 | higher
    linear CKA to the teacher, debiased: rotation and scale do not count
subspace | shares | 0 to 1 | neither
    array: share of the variance inside the teacher's first k principal components, all k
subspace/K | share | 0 to 1 | neither
    that share for k = K
""",
)
