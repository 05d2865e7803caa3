"""`teacher_pca:K`, a student without a network: the teacher's own embeddings in K dimensions.

What a student of rank K would score that had learned all a rank of K can hold. Its embeddings
are the teacher's, raw, projected on the K first principal components of the clean train images
and put back into the teacher's space (mean + U_K U_K'(T - mean)), so that a cosine to the teacher
keeps its meaning; then normalised like any other. Corrupted test images are the stored ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from shards.bank.splits import Split
from shards.support.registry import split_spec

NAME = "teacher_pca"


def has_no_network(spec: str) -> bool:
    return split_spec(spec)[0] == NAME


def components(spec: str) -> int:
    """K of `teacher_pca:K`. Raises: ValueError."""
    argument = split_spec(spec)[1]
    if not re.fullmatch(r"[0-9]{1,9}", argument) or int(argument) == 0:
        raise ValueError(f"student `{spec}`: write {NAME}:K, K a whole number of 1 or more")
    return int(argument)


def canonical_pca(spec: str) -> str:
    """`teacher_pca:016` -> `teacher_pca:16`."""
    return f"{NAME}:{components(spec)}"


def check_dimensions(spec: str, embedding_dim: int) -> None:
    """Raises: ValueError with both numbers where K is more than the teacher has."""
    if components(spec) > embedding_dim:
        raise ValueError(f"student `{spec}`: the teacher has {embedding_dim} dimensions")


def no_network(argument: str, embedding_dim: int, image_size: int) -> NoReturn:
    raise ValueError(
        f"student `{NAME}:{argument}`: has no network; its embeddings are made from the teacher's"
    )


def principal_projection(
    spec: str, clean_train: Split
) -> Callable[[Split, int], NDArray[np.float64]]:
    """(split, view) -> its projected raw embeddings, float64 (N, D).

    Raises: ValueError where K is more than the train embeddings span.
    """
    from trainers.objectives.targets import Source, principal_map, raw_rows

    try:
        mean_D, u_DK = principal_map(components(spec), Source(clean_train, 0).moments)
    except ValueError as error:
        raise ValueError(f"student `{spec}`: {error}") from None

    def project(split: Split, view: int) -> NDArray[np.float64]:
        raw_ND = raw_rows(split.embedding_NVD, split.norm_NV, slice(None), view)
        return (raw_ND - mean_D) @ u_DK @ u_DK.T + mean_D

    return project
