"""How much the student's embeddings say about the teacher's, and how they spread on the sphere.

See `shards.measures.infonce`. The teacher is measured against itself: its values are those that a
perfect student would reach.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.measures.infonce import (
    NAN,
    TEMPERATURE,
    alignment,
    centred_retrieval,
    full_infonce,
    losses_by_temperature,
    paper_infonce,
    paper_log_batch,
    paper_uniformity,
    paper_uniformity_distinct,
    tuned_temperature,
    uniformities,
)
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank


def infonce(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Uniformity on the clean test images; InfoNCE, retrieval and alignment to the teacher."""
    x_ND, y_ND = bank.test_ND, bank.teacher_ND
    distinct, with_self = uniformities(x_ND)
    yield "uniformity", distinct
    yield "uniformity/with_self", with_self
    yield "uniformity/paper", paper_uniformity(x_ND)
    yield "uniformity/paper/distinct", paper_uniformity_distinct(x_ND)
    if not bank.in_teacher_space:
        return
    yield "alignment", alignment(x_ND, y_ND)
    forward, reverse = paper_infonce(x_ND, y_ND), paper_infonce(y_ND, x_ND)
    unrelated = paper_log_batch(len(x_ND))
    yield "infonce/paper", forward
    yield "infonce/paper/reverse", reverse
    yield "infonce/paper/bound", unrelated - forward
    yield "infonce/paper/bound/reverse", unrelated - reverse
    full = full_infonce(x_ND, y_ND)
    yield "infonce/full", full.loss
    yield "infonce/full/reverse", full.reverse_loss
    yield "infonce/bound", float(np.log(len(x_ND))) - full.loss
    yield "infonce/bound/reverse", float(np.log(len(x_ND))) - full.reverse_loss
    yield "infonce/retrieval1", full.hits
    yield "infonce/retrieval1/reverse", full.reverse_hits
    yield from _corrected_for_the_cone(bank, float(np.log(len(x_ND))) - full.loss)


def _corrected_for_the_cone(bank: FeatureBank, bound: float) -> Iterator[tuple[str, float]]:
    """The bound and retrieval, corrected for how narrow the cone of the embeddings is.

    In a narrow cone all cosines are close to 1, so that even a perfect student has a low bound at a
    fixed temperature. The three corrections: divide by the bound of the teacher against itself,
    choose the temperature on train images, and subtract the mean of the train embeddings.
    bound: infonce/bound of the student, in nats.
    """
    x_ND, y_ND, nats = bank.test_ND, bank.teacher_ND, float(np.log(len(bank.test_ND)))
    teacher_bound = nats - float(losses_by_temperature(y_ND, y_ND, (TEMPERATURE,))[0])
    yield "infonce/bound/teacher_share", bound / teacher_bound if teacher_bound > 0 else NAN
    temperature = tuned_temperature(bank.train_ND, bank.teacher_train_ND, bank.seed)
    tuned = nats - float(losses_by_temperature(x_ND, y_ND, (temperature,))[0])
    yield "infonce/tuned/temperature", temperature
    yield "infonce/tuned/bound", tuned
    means = bank.train_ND.mean(axis=0), bank.teacher_train_ND.mean(axis=0)
    yield "infonce/retrieval1/centred", centred_retrieval(x_ND, y_ND, *means)


INFONCE = Probe(
    infonce,
    revision=4,
    default=True,
    metrics="""
infonce/paper | nats | 0 upwards | lower
    InfoNCE, student against teacher, batches of 64, temperature 0.1; about ln 64 if unrelated
infonce/paper/bound | nats | up to ln 64 | higher
    its value for unrelated embeddings minus infonce/paper
infonce/full | nats | 0 upwards | lower
    the same with all N test images in one batch; about ln N if unrelated
infonce/bound | nats | up to ln N | higher
    ln N minus infonce/full: a lower bound on the mutual information of student and teacher
infonce/bound/teacher_share | share | real | higher
    infonce/bound over the teacher's own: at one temperature the bound depends on the cone's width
infonce/tuned/temperature | temperature | 0.002 to 1 | neither
    the temperature at which InfoNCE is lowest on train
infonce/tuned/bound | nats | up to ln N | higher
    infonce/bound at that temperature
infonce/retrieval1/centred | share | 0 to 1 | higher
    infonce/retrieval1 after subtracting the means of train: the cone's width does not matter
infonce/retrieval1 | share | 0 to 1 | higher
    how often the teacher's embedding nearest to the student's is that of the same image
infonce/paper/reverse | nats | 0 upwards | lower
    infonce/paper, teacher against student
infonce/paper/bound/reverse | nats | up to ln 64 | higher
    infonce/paper/bound, teacher against student
infonce/full/reverse | nats | 0 upwards | lower
    infonce/full, teacher against student
infonce/bound/reverse | nats | up to ln N | higher
    infonce/bound, teacher against student
infonce/retrieval1/reverse | share | 0 to 1 | higher
    infonce/retrieval1, teacher against student
alignment | squared distance | 0 to 4 | lower
    mean squared distance of an image's embedding to the teacher's of the same image
uniformity | ln | -8 to 0 | neither
    ln of the mean of exp(-2 d^2) over distinct pairs (Wang and Isola); lower is more spread out
uniformity/with_self | ln | -8 to 0 | neither
    the same with self-pairs, all N at once
uniformity/paper | ln | -8 to 0 | neither
    the same with self-pairs, in batches of 64 (the paper's)
uniformity/paper/distinct | ln | -8 to 0 | neither
    the same without self-pairs, in batches of 64
""",
)
