"""FeatureBank: the embeddings all probes share, from one clean pass and one pass a corruption."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureBank:
    """L2-normalised embeddings, float32.

    train_ND, test_ND: of the clean images; noisy: of the test images under each corruption,
    {metric path: (draws, N, D)}; teacher_ND: the teacher's, of the clean test images.
    """

    train_ND: Floats
    train_labels_N: NDArray[np.int64]
    test_ND: Floats
    test_labels_N: NDArray[np.int64]
    noisy: dict[str, Floats]
    teacher_ND: Floats
    cache: dict[str, Any] = field(default_factory=lambda: {})


def unit(rows_ND: NDArray[Any]) -> Floats:
    """Rows divided by their L2 norm, float32. Errors: ValueError for a zero or non-finite row."""
    wide_ND = rows_ND.astype(np.float64)
    norm_N1 = np.linalg.norm(wide_ND, axis=-1, keepdims=True)
    if not np.isfinite(norm_N1).all() or not (norm_N1 > 0).all():
        bad = int(np.argmin(np.isfinite(norm_N1) & (norm_N1 > 0)))
        raise ValueError(f"embedding {bad} is not finite or has norm 0: it cannot be normalised")
    return (wide_ND / norm_N1).astype(np.float32)
