"""What a linear classifier reads from the embeddings, by two protocols.

`paper`: C = 1 on unit vectors, train cut to whole batches (arXiv 2603.06698 drops the last short
one: 49,984 of CIFAR-10's 50,000). In a narrow cone C = 1 regularises strongly, and the more so the
narrower the cone, so accuracy is mixed up with scale. `standard`: centred by train's mean and
divided by one number, train's RMS, so that shifts, scales and rotations change nothing; C is the
best of a grid on a tenth of train that is held out, then all of train is fitted. C multiplies
the SUM of losses: it means nothing without N, so both are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.measures.logistic import TOL, SoftmaxModel, SoftmaxProblem, fit_softmax
from shards.measures.moments import Rows
from shards.support.rng import hash64
from trainers.probes.features import FeatureBank

Labels = NDArray[np.int64]

PAPER_BATCH = 64  # whatever a trial's own is: the protocol is the same for all
GRID = tuple(10.0**power for power in range(-6, 2))
GRID_TOL = 1e-5  # from 1e-4, scikit-learn's default, neighbours of the grid look alike
HELD_OUT = 0.1


@dataclass(frozen=True)
class Classifier:
    """A softmax model that takes and gives NumPy, or takes tensors of any device."""

    model: SoftmaxModel

    @property
    def gradient_norm(self) -> float:
        """scikit-learn's: largest absolute entry of the gradient of the objective over C N."""
        return self.model.gradient_norm

    def predict(self, x_ND: Rows) -> Labels:
        """The class of the largest logit, int64 (N,)."""
        return self.model.predict(_tensor(x_ND)).cpu().numpy()


def _tensor(x_ND: Rows) -> torch.Tensor:
    if isinstance(x_ND, torch.Tensor):
        return x_ND
    return torch.from_numpy(np.require(x_ND, requirements=("C", "W")))  # pyright: ignore[reportUnknownMemberType]


def _own_c(C: float, labels_N: Labels) -> float:
    """scikit-learn's C -> ours: with two classes its penalty weighs half as much as ours."""
    return C / 2 if len(np.unique(labels_N)) == 2 else C


def fit(x_ND: Rows, labels_N: Labels, C: float = 1.0, tol: float = TOL) -> Classifier:
    """What scikit-learn's LogisticRegression(C=C) tends to as its tol goes to 0.

    Features (N, D) of any float type, as they are; tensors are fitted on their device. Classes
    without a sample are never predicted. Raises: ValueError, see
    `shards.measures.logistic.fit_softmax`.
    """
    labels = torch.from_numpy(np.asarray(labels_N, dtype=np.int64))  # pyright: ignore[reportUnknownMemberType]
    classes = int(labels_N.max()) + 1 if len(labels_N) else 0
    return Classifier(fit_softmax(_tensor(x_ND), labels, classes, _own_c(C, labels_N), tol))


def accuracy(model: Any, x_ND: Rows, labels_N: Labels) -> float:
    """Share of right predictions, in [0, 1]; higher is better."""
    return float((np.asarray(model.predict(x_ND)) == labels_N).mean())


# ---- the paper's ----


def whole_batches(count: int) -> int:
    """How many of `count` samples fill batches of 64; all of them where there are fewer."""
    return count // PAPER_BATCH * PAPER_BATCH or count


def classifier(bank: FeatureBank) -> Classifier:
    """The paper's protocol on clean train embeddings, fitted once a bank."""
    if "classifier" not in bank.cache:
        kept = whole_batches(len(bank.train_ND))
        bank.cache["classifier"] = fit(bank.train_ND[:kept], bank.train_labels_N[:kept])
    return bank.cache["classifier"]


# ---- standard ----


@dataclass(frozen=True)
class Standard:
    """(x - mean) / rms with train's mean (D,) and one root mean square over all its entries."""

    mean_D: NDArray[np.float64]
    rms: float

    @classmethod
    def of(cls, x_ND: NDArray[Any]) -> Standard:
        """Where nothing varies the divisor is 1."""
        mean_D: NDArray[np.float64] = x_ND.mean(axis=0, dtype=np.float64)
        square = np.mean([float(np.square(row_D - mean_D).mean()) for row_D in x_ND])
        return cls(mean_D, float(np.sqrt(square)) or 1.0)

    def __call__(self, x_ND: NDArray[Any]) -> NDArray[np.float32]:
        return ((x_ND - self.mean_D) / self.rms).astype(np.float32)


def held_out(labels_N: Labels, seed: int, share: float = HELD_OUT) -> NDArray[np.bool_]:
    """bool (N,): `share` of each class, at least one sample of those that have two.

    A pure function of seed and labels: in each class the samples whose hash of (seed, place in
    the shards' order) is smallest.
    """
    words_N = hash64(seed, np.arange(len(labels_N), dtype=np.uint64))
    held_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        own = np.flatnonzero(labels_N == label)
        count = max(1, round(share * len(own))) if len(own) > 1 else 0
        held_N[own[np.argsort(words_N[own], kind="stable")[:count]]] = True
    return held_N


def choose_c(
    x_ND: NDArray[np.float32], labels_N: Labels, seed: int, grid: tuple[float, ...] = GRID
) -> float:
    """The C of best accuracy on the held-out samples, the smallest of equals.

    Raises: ValueError where no class has two samples; see `fit`.
    """
    held_N = held_out(labels_N, seed)
    if not held_N.any():
        raise ValueError("choosing C needs a class with two samples in train; got one of each")
    fitted_N = labels_N[~held_N]
    labels = torch.from_numpy(fitted_N)  # pyright: ignore[reportUnknownMemberType]
    problem = SoftmaxProblem(_tensor(x_ND[~held_N]), labels, int(labels_N.max()) + 1)
    model, best = None, (-1.0, 0.0)
    for C in sorted(grid):
        model = problem.solve(_own_c(C, fitted_N), GRID_TOL, start=model)
        score = accuracy(Classifier(model), x_ND[held_N], labels_N[held_N])
        if score > best[0]:
            best = score, C
    return best[1]


@dataclass(frozen=True)
class Chosen:
    """The classifier of the standard protocol, what it takes, and its C."""

    scaled: Standard
    model: Classifier
    C: float

    def predict(self, x_ND: NDArray[Any]) -> Labels:
        return self.model.predict(self.scaled(x_ND))


def standard_classifier(bank: FeatureBank) -> Chosen:
    """The standard protocol on clean train embeddings, fitted once a bank."""
    if "standard" not in bank.cache:
        scaled = Standard.of(bank.train_ND)
        train_ND = scaled(bank.train_ND)
        C = choose_c(train_ND, bank.train_labels_N, bank.seed)
        bank.cache["standard"] = Chosen(scaled, fit(train_ND, bank.train_labels_N, C), C)
    return bank.cache["standard"]


def linear(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Both protocols: accuracy on the clean test embeddings, gradient norm, C and N."""
    paper, chosen = classifier(bank), standard_classifier(bank)
    yield "linear/paper/accuracy", accuracy(paper, bank.test_ND, bank.test_labels_N)
    yield "linear/paper/gradient_norm", paper.gradient_norm
    yield "linear/paper/n", float(whole_batches(len(bank.train_ND)))
    yield "linear/standard/accuracy", accuracy(chosen, bank.test_ND, bank.test_labels_N)
    yield "linear/standard/gradient_norm", chosen.model.gradient_norm
    yield "linear/standard/C", chosen.C
    yield "linear/standard/n", float(len(bank.train_ND))
