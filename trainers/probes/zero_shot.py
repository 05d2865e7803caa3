"""Classification without training: the class whose text embedding is nearest.

A student that moved into its teacher's space can be asked in words. Images and texts of CLIP lie
in two cones apart; `centred` takes the mean of train's embeddings from the images and that of the
classes from the texts, so that no class is near all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.probes.features import FeatureBank

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]


def _directions(x_ND: NDArray[Any], centre_D: NDArray[Any] | float) -> Matrix:
    """Rows minus the centre, of length 1, float64; a row that is the centre stays 0."""
    rows_ND: Matrix = x_ND.astype(np.float64) - centre_D
    norm_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND / np.where(norm_N1 > 0, norm_N1, 1)


def zero_shot_labels(
    x_ND: NDArray[Any], text_CD: NDArray[Any], centre_D: NDArray[Any] | None = None
) -> Labels:
    """argmax over classes of the cosine, the first of equals; int64 (N,).

    With `centre_D` the cosine is between x - centre_D and text - mean(text).
    Raises: ValueError where the widths differ or a number is not finite.
    """
    if x_ND.ndim != 2 or text_CD.ndim != 2 or x_ND.shape[1] != text_CD.shape[1]:
        shapes = f"{x_ND.shape} and {text_CD.shape}"
        raise ValueError(f"embeddings and class embeddings must be as wide; got {shapes}")
    if not (np.isfinite(x_ND).all() and np.isfinite(text_CD).all()):
        raise ValueError("embeddings and class embeddings must be finite; got NaN or infinity")
    if centre_D is None:
        cosine_NC = _directions(x_ND, 0.0) @ _directions(text_CD, 0.0).T
    else:
        middle_D = _directions(text_CD, 0.0).mean(axis=0)
        text_ND = _directions(_directions(text_CD, 0.0), middle_D)
        cosine_NC = _directions(x_ND, centre_D) @ text_ND.T
    return cosine_NC.argmax(axis=1)


def named(bank: FeatureBank) -> Labels | None:
    """The class nearest to each clean test embedding; None where texts are not as wide."""
    text_CD = bank.text_CD
    if text_CD is None or text_CD.shape[1] != bank.test_ND.shape[1]:
        return None
    return zero_shot_labels(bank.test_ND, text_CD)


def zero_shot(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test images, and how often the teacher's own guess is the same.

    Nothing without a text tower, or where the student's embeddings are not as wide as its texts.
    """
    guess_N, text_CD = named(bank), bank.text_CD
    if guess_N is None or text_CD is None:
        return
    mean_D: Matrix = bank.train_ND.mean(axis=0, dtype=np.float64)
    centred_N = zero_shot_labels(bank.test_ND, text_CD, mean_D)
    teacher_N = zero_shot_labels(bank.teacher_ND, text_CD)
    yield "zero_shot/accuracy", float((guess_N == bank.test_labels_N).mean())
    yield "zero_shot/centred/accuracy", float((centred_N == bank.test_labels_N).mean())
    yield "zero_shot/agreement", float((guess_N == teacher_N).mean())
