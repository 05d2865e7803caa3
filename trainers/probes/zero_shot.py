"""Classification by the teacher's text embeddings of the classes, without training.

See `shards.measures.zero_shot`. A student that has moved into its teacher's embedding space can be
classified with by text, as the teacher can.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.measures.zero_shot import Labels, Matrix, zero_shot_labels
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank


def zero_shot_predictions(bank: FeatureBank) -> Labels | None:
    """Predicted class of each clean test embedding; None where no text can be compared with it."""
    text_CD = bank.text_CD
    if text_CD is None or not bank.in_teacher_space or text_CD.shape[1] != bank.test_ND.shape[1]:
        return None
    return zero_shot_labels(bank.test_ND, text_CD)


def zero_shot(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test images, and how often the teacher predicts the same class.

    Yields nothing without a text tower, or for a student that is not in the teacher's space.
    """
    predicted_N, text_CD = zero_shot_predictions(bank), bank.text_CD
    if predicted_N is None or text_CD is None:
        return
    mean_D: Matrix = bank.train_ND.mean(axis=0, dtype=np.float64)
    centred_N = zero_shot_labels(bank.test_ND, text_CD, mean_D)
    teacher_N = zero_shot_labels(bank.teacher_ND, text_CD)
    yield "zero_shot/accuracy", float((predicted_N == bank.test_labels_N).mean())
    yield "zero_shot/centred/accuracy", float((centred_N == bank.test_labels_N).mean())
    yield "zero_shot/agreement", float((predicted_N == teacher_N).mean())


ZERO_SHOT = Probe(
    zero_shot,
    revision=2,
    default=True,
    metrics="""
zero_shot/accuracy | share | 0 to 1 | higher
    class whose text embedding (the teacher's) is nearest to the image's
zero_shot/centred/accuracy | share | 0 to 1 | higher
    the same after subtracting the mean of the images and that of the texts
zero_shot/agreement | share | 0 to 1 | higher
    how often student and teacher predict the same class in this way
""",
)
