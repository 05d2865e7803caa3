"""What probes look at: embeddings of one clean pass, and a subject that can be asked for more.

A `Subject` is a student with its images, or a teacher with what the shards hold of it. Probes
that need more than the clean embeddings (corruptions, train images under noise, penultimate
features, recalibrated batch norms) ask it; what it lacks it says by `None`, and the probe leaves
those measures out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.measures.corruption import Figures

Floats = NDArray[np.float32]
SplitName = Literal["train", "test"]


class Subject(Protocol):
    """What is measured. All embeddings are L2-normalised float32 (N, D), in the split's order."""

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats | None:
        """One view of every sample under an arm's stored draws; None where it cannot be had."""
        ...

    def penultimate(self, split: SplitName) -> Floats | None:
        """Raw features (N, F) that the last linear layer takes, of the clean images."""
        ...

    def recalibrated(self, arm: str) -> Subject | None:
        """A copy whose BatchNorm statistics are those of the train images under `arm`.

        None where there is no BatchNorm or no model.
        """
        ...


@dataclass(frozen=True)
class FeatureBank:
    """What all probes share. Embeddings are L2-normalised float32 in the shards' order.

    teacher_ND, teacher_train_ND: the teacher's, of the clean test and train images; text_CD: its
    class embeddings, None without a text tower; test_arms: specs of the corruptions to measure
    under, each drawn `draws` times; trained_on: spec of the arm that the student was trained on
    ("" for the teacher); adapt_arms: corruptions to adapt to; figures: of arms under which the
    subject cannot be embedded but was measured when the shards were built.
    """

    train_ND: Floats
    train_labels_N: NDArray[np.int64]
    test_ND: Floats
    test_labels_N: NDArray[np.int64]
    teacher_ND: Floats
    teacher_train_ND: Floats
    subject: Subject
    text_CD: Floats | None = None
    classes: tuple[str, ...] = ()
    test_arms: tuple[str, ...] = ()
    draws: int = 1
    trained_on: str = ""
    adapt_arms: tuple[str, ...] = ()
    figures: Mapping[str, Figures] = field(default_factory=lambda: {})
    seed: int = 0
    cache: dict[str, Any] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Stored:
    """A subject of embeddings alone: {(split, arm, view): (N, D)}; it has no model."""

    embeddings: Mapping[tuple[SplitName, str, int], Floats]

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats | None:
        return self.embeddings.get((split, arm, view))

    def penultimate(self, split: SplitName) -> Floats | None:
        return None

    def recalibrated(self, arm: str) -> Subject | None:
        return None


def unit(rows_ND: NDArray[Any]) -> Floats:
    """Rows divided by their L2 norm, float32. Raises: ValueError for a zero or non-finite row."""
    wide_ND = rows_ND.astype(np.float64)
    norm_N1 = np.linalg.norm(wide_ND, axis=-1, keepdims=True)
    if not np.isfinite(norm_N1).all() or not (norm_N1 > 0).all():
        bad = int(np.argmin(np.isfinite(norm_N1) & (norm_N1 > 0)))
        raise ValueError(f"embedding {bad} is not finite or has norm 0: it cannot be normalised")
    return (wide_ND / norm_N1).astype(np.float32)
