"""Observations during training: cheap measures of the student's embeddings of a fixed subset.

They show how the geometry develops. A final low rank can be a collapse or an unfinished rise;
rank against step, beside the cosine to the teacher, tells the two apart. An `Observer` is called
with (step, model) and returns one row:

    rank/effective       exp H(lambda / sum lambda) of the centred embeddings, [1, D]
    rank/participation   tr(C)^2 / tr(C^2), [1, D]
    cosine_to_teacher    mean cosine to the teacher's embeddings, [-1, 1]; where it has a meaning
    spectrum/K           share of the variance in the first K = 1, 2, 4, ... components, [0, 1]
    alignment            mean |x_i - y_i|^2 to the teacher's embeddings y, [0, 4]; likewise
    uniformity           log mean exp(-2 |x_i - x_j|^2) over distinct pairs, [-8, 0]
    ridge/accuracy       of a ridge classifier fitted on the train subset, [0, 1]

The rows are of the test split; of a trial with `validation_samples`, of the validation split, and
their names begin with `validation/`. Whatever is decided during training, such as stopping early,
is then decided without the test images.

The subset is the first `curve_samples` clean images of each split in keyed order
(`shards.bank.order`), so it is the same for every student. A rank depends on the number of images:
compare it with the teacher's on the same subset (`Observer.teacher`), not with the trial's final
rank, which is of all test images.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]
from torch import nn

from shards.arms import make_arm
from shards.bank.order import keyed_order
from shards.bank.splits import Split, take
from shards.measures.infonce import alignment, uniformity
from shards.measures.spectrum import (
    centred_eigenvalues,
    participation_ratio,
    rank_from_eigenvalues,
)
from shards.measures.truncated import dims
from trainers.inputs import TrialSplits
from trainers.probes.feature_banks import encode_view
from trainers.probes.features import Floats, unit
from trainers.probes.teacher_space import learns_teacher_space
from trainers.training.data import Data
from trainers.training.wrappers import unwrap_student

VALIDATION = "validation/"  # how names of values of the validation split begin
Row = dict[str, float]


def ridge_accuracy(
    train_ND: Floats,
    train_labels_N: NDArray[np.int64],
    test_ND: Floats,
    test_labels_N: NDArray[np.int64],
) -> float:
    """Test accuracy of ridge regression onto one-hot labels, in [0, 1]; higher is better.

    Embeddings (N, D) and labels (N,) of both splits. Everything is centred by the train means. The
    penalty is the mean eigenvalue of the train Gram matrix, so the result does not depend on the
    scale of the embeddings. A closed form, unlike the linear probe: it takes milliseconds.
    """
    mean_D = train_ND.mean(axis=0, dtype=np.float64)
    x_ND = train_ND - mean_D
    gram_DD = x_ND.T @ x_ND
    penalty = max(float(np.trace(gram_DD)) / len(gram_DD), np.finfo(np.float64).tiny)
    named_C, column_N = np.unique(train_labels_N, return_inverse=True)
    labels_NC = np.eye(len(named_C))[column_N]
    offset_C = labels_NC.mean(axis=0)
    penalised_DD = gram_DD + penalty * np.eye(len(gram_DD))
    weights_DC = cast(
        "NDArray[np.float64]", np.linalg.solve(penalised_DD, x_ND.T @ (labels_NC - offset_C))
    )
    best_N = ((test_ND - mean_D) @ weights_DC + offset_C).argmax(axis=1)
    return float((named_C[best_N] == test_labels_N).mean())


@contextmanager
def temporarily_in_eval(model: nn.Module) -> Generator[None]:
    """A context in which the model is in evaluation mode and without gradients.

    Modes, buffers and random generators are restored at its end, so that training is not changed.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with (
            torch.random.fork_rng(devices=devices),  # pyright: ignore[reportUnknownMemberType]
            torch.no_grad(),
        ):
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


class Observer:
    """A function of (step, model) that returns one row of measures.

    model: the module that the loop trains. splits: the trial's samples. device: where the student
    is.
    """

    def __init__(self, splits: TrialSplits, device: torch.device) -> None:
        inputs, config = splits.inputs, splits.inputs.config
        self.threads, self._aligned = config.threads, learns_teacher_space(config)
        clean = make_arm("clean")
        measured = splits.test["clean"] if splits.validation is None else splits.validation
        self._prefix = "" if splits.validation is None else VALIDATION
        self._train, self._measured = (
            _subset(split, config.curve_samples) for split in (splits.clean_train, measured)
        )
        both = (self._train, self._measured)
        self._data = [Data(s, clean, inputs.preprocess, device) for s in both]
        self._teacher = [unit(s.embedding_NVD[:, 0]) for s in both]

    def __call__(self, step: int, model: nn.Module) -> Row:
        with temporarily_in_eval(model):
            embeddings = [unit(encode_view(unwrap_student(model), data, 0)) for data in self._data]
        return self._row(*embeddings)

    def teacher(self) -> Row:
        """The same measures of the teacher's embeddings of the same images."""
        return self._row(*self._teacher)

    def _row(self, train_ND: Floats, other_ND: Floats) -> Row:
        with threadpool_limits(self.threads):
            labels = self._train.labels_N, self._measured.labels_N
            values_D = centred_eigenvalues(other_ND)
            shares_D = np.cumsum(values_D) / (values_D.sum() or np.nan)
            row = {
                "rank/effective": rank_from_eigenvalues(values_D),
                "rank/participation": participation_ratio(values_D),
                **{f"spectrum/{k}": float(shares_D[k - 1]) for k in dims(len(shares_D))},
                "uniformity": uniformity(other_ND),
                "ridge/accuracy": ridge_accuracy(train_ND, labels[0], other_ND, labels[1]),
            }
            if self._aligned:
                cosine_N = (other_ND.astype(np.float64) * self._teacher[1]).sum(axis=1)
                row["cosine_to_teacher"] = float(cosine_N.mean())
                row["alignment"] = alignment(other_ND, self._teacher[1])
        return {self._prefix + name: v for name, v in row.items() if np.isfinite(v)}


def _subset(split: Split, samples: int) -> Split:
    """The first `samples` samples of a split in keyed order; all of a smaller split."""
    return take({"clean": split}, keyed_order(split.keys)[:samples])["clean"]
