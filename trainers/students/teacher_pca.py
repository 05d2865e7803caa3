"""`teacher_pca:K`, a student without a network: the teacher's own embeddings in K dimensions.

It scores what the best possible student of rank K would: one that has learned everything a
K-dimensional subspace can hold. Its embeddings are the teacher's, raw, projected onto the first K
principal components of the clean train images and mapped back into the teacher's space:

    mean + U_K U_K' (T - mean)

so that a cosine to the teacher keeps its meaning; then they are normalised like any other. The
projection is in `trainers.probes.projection`, this module knows the spec only.
"""

from __future__ import annotations

import re
from typing import NoReturn

from shards.support.registry import split_spec

NAME = "teacher_pca"


def has_no_network(spec: str) -> bool:
    """Whether `spec` is `teacher_pca:K`: there is nothing to train, save or export."""
    return split_spec(spec)[0] == NAME


def components(spec: str) -> int:
    """K of `teacher_pca:K`. Raises: ValueError."""
    argument = split_spec(spec)[1]
    if not re.fullmatch(r"[0-9]{1,9}", argument) or int(argument) == 0:
        raise ValueError(f"student `{spec}`: write {NAME}:K, K a whole number of 1 or more")
    return int(argument)


def canonical_pca(argument: str) -> str:
    """`016` -> `16`. Raises: ValueError where it is not a whole number of 1 or more."""
    return str(components(f"{NAME}:{argument}"))


def check_dimensions(spec: str, embedding_dim: int) -> None:
    """Raises: ValueError with both numbers where K is more than the teacher's dimensions."""
    if components(spec) > embedding_dim:
        raise ValueError(f"student `{spec}`: the teacher has {embedding_dim} dimensions")


def no_network(argument: str, embedding_dim: int, image_size: int) -> NoReturn:
    """The entry in STUDENTS. Raises: ValueError always, because there is nothing to build."""
    raise ValueError(
        f"student `{NAME}:{argument}`: has no network; its embeddings are made from the teacher's"
    )
