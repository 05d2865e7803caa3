"""FeatureBank: the embeddings of the clean images, and a subject that can compute others.

A `Subject` is a student with its images, or a teacher with the embeddings that the shards hold.
Probes that need more than the clean embeddings (corrupted images, train images under noise,
penultimate features, recalibrated BatchNorm) request it from the subject. It returns None for what
it does not have, and the probe then leaves out the values that depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.measures.corruption import Figures

Floats = NDArray[np.float32]
SplitName = Literal["train", "test"]
T = TypeVar("T")


class Subject(Protocol):
    """What is measured. Embeddings are L2-normalised float32 (N, D), in keyed order."""

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats | None:
        """One view of every sample under an arm; None where it is not stored or computable."""
        ...

    def penultimate(self, split: SplitName) -> Floats | None:
        """Raw inputs (N, F) of the last linear layer, of the clean images; None without a model."""
        ...

    def recalibrated(self, arm: str) -> Subject | None:
        """A copy whose BatchNorm statistics are those of the train images under `arm`.

        None where there is no BatchNorm or no model.
        """
        ...


@dataclass(frozen=True)
class FeatureBank:
    """The input of all probes. Embeddings are L2-normalised float32 (N, D).

    Samples are in keyed order (`shards.bank.order`), which does not depend on that of the shards.
    So a probe may use the first samples, or consecutive batches.

    train_ND, train_labels_N, test_ND, test_labels_N: the subject's clean embeddings and labels.
    teacher_ND, teacher_train_ND: the teacher's embeddings of the same test and train images.
    subject: computes other embeddings that a probe needs.
    text_CD: the teacher's text embeddings of the classes; None without a text tower.
    classes: names of the classes.
    test_arms: specs of the corruptions to measure under, each drawn `draws` times.
    trained_on: spec of the arm that the student was trained on; "" for the teacher.
    adapt_arms: specs of the corruptions to adapt to.
    figures: {arm: figures} that were measured when the shards were built, for arms under which the
        subject cannot be embedded.
    seed: of every random choice that a probe makes.
    aligned: whether the subject's embeddings are meant to lie in the teacher's space.
    test_file_order_N: the rows of the test images in the order of the data set's files; None where
        they are in that order already.
    cache: results that several probes need, see `cached`.
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
    aligned: bool = True
    test_file_order_N: NDArray[np.int64] | None = None
    cache: dict[str, Any] = field(default_factory=lambda: {})

    @property
    def in_teacher_space(self) -> bool:
        """Whether cosines between the subject's embeddings and the teacher's have a meaning.

        See `trainers.probes.teacher_space`. A probe yields values that rest on them only if so.
        """
        return self.aligned and self.test_ND.shape[1] == self.teacher_ND.shape[1]

    def cached(self, name: str, compute: Callable[[], T]) -> T:
        """The result of `compute`, which is called once for this bank and name."""
        if name not in self.cache:
            self.cache[name] = compute()
        return self.cache[name]


@dataclass(frozen=True)
class Stored:
    """A subject without a model. embeddings: {(split, arm, view): unit embeddings (N, D)}."""

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
