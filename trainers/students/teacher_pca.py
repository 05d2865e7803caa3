"""`teacher_pca:K`, a student without a network: the teacher's own embeddings in K dimensions.

An upper reference for students whose embeddings have rank K: no other K-dimensional subspace holds
more of the teacher's variance. Its embeddings are the teacher's raw ones, projected onto the first
K principal components of the clean train images and mapped back into the teacher's space:

    mean + U_K U_K' (T - mean)

so that a cosine to the teacher keeps its meaning; then they are normalised like a student's. The
projection is in `trainers.probes.projection`.
"""

from __future__ import annotations

from typing import NoReturn

from shards.support.registry import split_spec
from trainers.config.student_specs import NO_NETWORK, components_of


def has_no_network(spec: str) -> bool:
    """Whether `spec` is `teacher_pca:K`: there is nothing to train, save or export."""
    return split_spec(spec)[0] == NO_NETWORK


def components(spec: str) -> int:
    """K of `teacher_pca:K`. Raises: ValueError where it is not a whole number of 1 or more."""
    return components_of(split_spec(spec)[1])


def check_dimensions(spec: str, embedding_dim: int) -> None:
    """Check that K is at most the teacher's D. Raises: ValueError with both numbers."""
    if components(spec) > embedding_dim:
        raise ValueError(f"student `{spec}`: the teacher has {embedding_dim} dimensions")


def no_network(argument: str, embedding_dim: int, image_size: int) -> NoReturn:
    """The entry in STUDENTS. Raises: ValueError always, because there is nothing to build."""
    raise ValueError(
        f"student `{NO_NETWORK}:{argument}`: has no network; its embeddings are made from those "
        "of the teacher"
    )
