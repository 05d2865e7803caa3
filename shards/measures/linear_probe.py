"""Linear classifiers on frozen embeddings (linear probes), by two protocols.

`paper`: C = 1 on unit vectors, with train cut to whole batches of 64, because arXiv 2603.06698
drops the last short batch (49,984 of CIFAR-10's 50,000 samples remain). Samples must be given in an
order that is random by class, as `shards.bank.order` makes it: of samples that are sorted by class
this would drop part of the last one. The narrower the cone of the embeddings, the more strongly
C = 1 regularises, so this accuracy mixes linear separability with the scale of the embeddings.

`standard`: embeddings are centred by the mean of train and divided by one number, the root mean
square of train, so that shifts, scales and rotations change nothing; C is the best of a grid on a
held-out tenth of train, and the classifier is then fitted on all of train.

Where the best C is an end of the grid, the grid goes on by further powers of 10 in that direction
as long as they are strictly better, to 1e-9 and 1e4 at most.

C multiplies the SUM of the losses, as in scikit-learn, so equal C at different N do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from shards.measures.logistic import TOL, SoftmaxModel, SoftmaxProblem, fit_softmax
from shards.measures.moments import Rows
from shards.support.rng import hash64

Labels = NDArray[np.int64]

PAPER_BATCH = 64  # fixed, so that the protocol does not depend on a trial's batch size
GRID = tuple(10.0**power for power in range(-6, 2))
WIDER = (  # beyond its ends, from the ends outwards
    tuple(10.0**power for power in (-7, -8, -9)),
    tuple(10.0**power for power in (2, 3, 4)),
)
GRID_TOL = 1e-5  # at 1e-4, scikit-learn's default, neighbouring values of the grid look alike
HELD_OUT = 0.1


class Predicts(Protocol):
    """A fitted classifier."""

    def predict(self, x_ND: NDArray[np.float32]) -> Labels:
        """Classes, int64 (N,), of embeddings (N, D)."""
        ...


@dataclass(frozen=True)
class Classifier:
    """A fitted softmax classifier that accepts NumPy arrays and tensors on any device."""

    model: SoftmaxModel

    @property
    def gradient_norm(self) -> float:
        """Largest absolute entry of the gradient of objective / (C N), as in scikit-learn."""
        return self.model.gradient_norm

    def predict(self, x_ND: Rows) -> Labels:
        """The class with the largest logit, int64 (N,)."""
        return self.model.predict(_tensor(x_ND)).cpu().numpy()


def _tensor(x_ND: Rows) -> torch.Tensor:
    if isinstance(x_ND, torch.Tensor):
        return x_ND
    return torch.from_numpy(np.require(x_ND, requirements=("C", "W")))  # pyright: ignore[reportUnknownMemberType]


def _softmax_c(C: float, labels_N: Labels) -> float:
    """The C of `fit_softmax` that is equivalent to scikit-learn's C.

    With two classes scikit-learn fits one weight vector, the difference of our two, which makes its
    penalty twice as strong as ours at the same C.
    """
    return C / 2 if len(np.unique(labels_N)) == 2 else C


def fit(x_ND: Rows, labels_N: Labels, C: float = 1.0, tol: float = TOL) -> Classifier:
    """Fit the classifier that scikit-learn's LogisticRegression(C=C) converges to as tol goes to 0.

    x_ND: features of any float type, used without scaling; tensors are fitted on their device.
    Classes without a sample are never predicted.
    Raises: ValueError, see `shards.measures.logistic.fit_softmax`.
    """
    labels = torch.from_numpy(np.asarray(labels_N, dtype=np.int64))  # pyright: ignore[reportUnknownMemberType]
    classes = int(labels_N.max()) + 1 if len(labels_N) else 0
    return Classifier(fit_softmax(_tensor(x_ND), labels, classes, _softmax_c(C, labels_N), tol))


def accuracy(model: Predicts, x_ND: NDArray[np.float32], labels_N: Labels) -> float:
    """Share of correct predictions, in [0, 1]; higher is better."""
    return float((np.asarray(model.predict(x_ND)) == labels_N).mean())


# ---- the paper's protocol ----


def whole_batches(count: int) -> int:
    """`count` rounded down to a multiple of 64; unchanged if it is below 64."""
    return count // PAPER_BATCH * PAPER_BATCH or count


def fit_paper(x_ND: Rows, labels_N: Labels) -> Classifier:
    """Fit by the paper's protocol: C = 1 on unit vectors (N, D), without the last short batch."""
    count = whole_batches(len(x_ND))
    return fit(x_ND[:count], labels_N[:count])


# ---- the standard protocol ----


@dataclass(frozen=True)
class Standardiser:
    """x -> (x - mean) / rms with the mean (D,) of train and one root mean square over all entries.

    It is one number and not one per dimension: dividing each dimension by its standard deviation
    would remove the anisotropy that is being studied, and would not be invariant to rotations.
    """

    mean_D: NDArray[np.float64]
    rms: float

    @classmethod
    def of(cls, x_ND: NDArray[np.floating]) -> Standardiser:
        """Fit to train embeddings (N, D); the divisor is 1 where they do not vary."""
        mean_D: NDArray[np.float64] = x_ND.mean(axis=0, dtype=np.float64)
        square = np.mean([float(np.square(row_D - mean_D).mean()) for row_D in x_ND])
        return cls(mean_D, float(np.sqrt(square)) or 1.0)

    def __call__(self, x_ND: NDArray[np.floating]) -> NDArray[np.float32]:
        return ((x_ND - self.mean_D) / self.rms).astype(np.float32)


def held_out(labels_N: Labels, seed: int, share: float = HELD_OUT) -> NDArray[np.bool_]:
    """Which samples are held out to choose C: bool (N,).

    `share` of each class, but at least one of a class with two samples or more. A pure function of
    seed and labels: in each class, the samples with the smallest hash of (seed, index).
    """
    words_N = hash64(seed, np.arange(len(labels_N), dtype=np.uint64))
    held_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        held_N[members[np.argsort(words_N[members], kind="stable")[:count]]] = True
    return held_N


def choose_c(
    x_ND: NDArray[np.float32],
    labels_N: Labels,
    seed: int,
    grid: tuple[float, ...] = GRID,
    wider: tuple[tuple[float, ...], tuple[float, ...]] = WIDER,
) -> float:
    """The C of `grid` with the best accuracy on the held-out samples; ties go to the smallest C.

    Where that is the first or last of the grid, the values of `wider` below or above it are tried
    in turn, as long as each is strictly better than the one before: an end of a grid says only that
    the best lies there or beyond. Ties end the search, since as C goes to 0 or to infinity the
    predictions no longer change. Each fit starts from a solution for a neighbouring C.
    Raises: ValueError where no class has two samples; see `fit`.
    """
    held_N = held_out(labels_N, seed)
    if not held_N.any():
        raise ValueError(
            "choosing C needs a class with two samples in train; every class has one sample"
        )
    fitted_N = labels_N[~held_N]
    labels = torch.from_numpy(fitted_N)  # pyright: ignore[reportUnknownMemberType]
    problem = SoftmaxProblem(_tensor(x_ND[~held_N]), labels, int(labels_N.max()) + 1)

    def score(C: float, start: SoftmaxModel | None) -> tuple[float, SoftmaxModel]:
        model = problem.solve(_softmax_c(C, fitted_N), GRID_TOL, start=start)
        return accuracy(Classifier(model), x_ND[held_N], labels_N[held_N]), model

    model, best, found = None, -1.0, 0.0
    models: dict[float, SoftmaxModel] = {}
    for C in sorted(grid):
        reached, model = score(C, model)
        models[C] = model
        if reached > best:
            best, found = reached, C
    for end, further in zip((min(grid), max(grid)), wider, strict=True):
        model = models[end]
        for beyond in further if found == end else ():
            reached, model = score(beyond, model)
            if reached <= best:
                break
            best, found = reached, beyond
    return found


@dataclass(frozen=True)
class StandardClassifier:
    """A classifier of the standard protocol, with the scaling of its inputs and the chosen C."""

    standardise: Standardiser
    model: Classifier
    C: float

    def predict(self, x_ND: NDArray[np.floating]) -> Labels:
        """The class with the largest logit, int64 (N,), of embeddings that are not yet scaled."""
        return self.model.predict(self.standardise(x_ND))


def fit_standard(x_ND: NDArray[np.float32], labels_N: Labels, seed: int) -> StandardClassifier:
    """Fit by the standard protocol on train embeddings (N, D).

    `seed` determines the held-out tenth that chooses C. Raises: ValueError, see `choose_c`, `fit`.
    """
    standardise = Standardiser.of(x_ND)
    scaled_ND = standardise(x_ND)
    C = choose_c(scaled_ND, labels_N, seed)
    return StandardClassifier(standardise, fit(scaled_ND, labels_N, C), C)
