"""Zero-shot classification: the class whose text embedding has the largest cosine to the image's.

CLIP's images and texts lie in two narrow cones, apart from each other. The centred variant
subtracts the mean of the train embeddings from the images and the mean of the classes from the
texts, so that no class is close to all images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]


def _directions(x_ND: NDArray[Any], centre_D: NDArray[Any] | float) -> Matrix:
    """Rows minus `centre_D`, divided by their norm, float64; a row that equals it stays 0."""
    rows_ND: Matrix = x_ND.astype(np.float64) - centre_D
    norm_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND / np.where(norm_N1 > 0, norm_N1, 1)


def zero_shot_labels(
    x_ND: NDArray[Any], text_CD: NDArray[Any], centre_D: NDArray[Any] | None = None
) -> Labels:
    """argmax_c cos(x_n, text_c), int64 (N,); ties go to the first class.

    With `centre_D` the cosine is between x - centre_D and text - mean(text).
    Raises: ValueError where the widths differ or a number is not finite.
    """
    if x_ND.ndim != 2 or text_CD.ndim != 2 or x_ND.shape[1] != text_CD.shape[1]:
        shapes = f"{x_ND.shape} and {text_CD.shape}"
        raise ValueError(f"embeddings and class embeddings must be equally wide; got {shapes}")
    if not (np.isfinite(x_ND).all() and np.isfinite(text_CD).all()):
        raise ValueError("embeddings and class embeddings must be finite; got NaN or infinity")
    if centre_D is None:
        cosine_NC = _directions(x_ND, 0.0) @ _directions(text_CD, 0.0).T
    else:
        middle_D = _directions(text_CD, 0.0).mean(axis=0)
        text_ND = _directions(_directions(text_CD, 0.0), middle_D)
        cosine_NC = _directions(x_ND, centre_D) @ text_ND.T
    return cosine_NC.argmax(axis=1)
