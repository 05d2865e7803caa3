"""`student: teacher_pca:K`: the teacher's embeddings projected onto K principal components.

See `trainers.students.teacher_pca`. Corrupted test images are those stored in the bank.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shards.bank.order import keyed_order
from shards.bank.splits import Split
from trainers.objectives.targets import moments_of, principal_map, raw_rows
from trainers.students.teacher_pca import components


def principal_projection(
    spec: str, clean_train: Split
) -> Callable[[Split, int], NDArray[np.float64]]:
    """A function of (split, view) that gives its projected raw embeddings, float64 (N, D).

    They are in keyed order, as those of a student.

    mean + U_K U_K' (T - mean), with mean and components of the clean train embeddings.
    Raises: ValueError where K is more than the rank of the train embeddings.
    """
    try:
        moments = moments_of(clean_train, keyed_order(clean_train.keys))
        mean_D, u_DK = principal_map(components(spec), moments)
    except ValueError as error:
        raise ValueError(f"student `{spec}`: {error}") from None

    def project(split: Split, view: int) -> NDArray[np.float64]:
        raw_ND = raw_rows(split.embedding_NVD, split.norm_NV, keyed_order(split.keys), view)
        return (raw_ND - mean_D) @ u_DK @ u_DK.T + mean_D

    return project
