"""Measures behind the probes against plain scikit-learn and torch, in one run.

    python benchmarks/probe_peers.py

On unit vectors of 512 dimensions, one thread, turn by turn; reported are medians of CPU seconds:

* nearest neighbours: `neighbour_labels` against scikit-learn's KNeighborsClassifier with brute
  force, cosines and the same weights, 20,000 train and 2,000 test rows.
* InfoNCE: `full_infonce` against torch's cross-entropy of the whole matrix of logits in float64,
  both directions, 4,000 pairs.
* CKA: `debiased_cka` against torch's Gram matrices in float64, 4,000 rows.

The linear probe and the spectrum have benchmarks of their own. Ends with 1 where the results
differ, or a peer is faster (but for InfoNCE, which is the same work in less memory).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from ratios import Ratio, finish
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy

from shards.measures.infonce import full_infonce
from shards.measures.knn import TEMPERATURE, K, neighbour_labels
from shards.measures.similarity import debiased_cka
from shards.support.memory import keep_freed_memory

DIM, CLASSES, TURNS = 512, 10, 5
TRAIN, TEST, PAIRS = 20_000, 2_000, 4_000
LOGITS = 0.1  # temperature of InfoNCE
AGREE = 1e-9  # of float64 values


def unit_vectors(rng: np.random.Generator, labels_N: np.ndarray, spread: float) -> np.ndarray:
    """float32 (N, DIM): around a direction of each class."""
    centres_CD = np.random.default_rng(1).normal(size=(CLASSES, DIM))
    rows_ND = centres_CD[labels_N] + spread * rng.normal(size=(len(labels_N), DIM))
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def infonce_by_torch(x_ND: np.ndarray, y_ND: np.ndarray) -> float:
    """Sum of both directions."""
    logits_NN = torch.from_numpy(x_ND).double() @ torch.from_numpy(y_ND).double().T / LOGITS
    target_N = torch.arange(len(logits_NN))
    _ = logits_NN.argmax(dim=1), logits_NN.argmax(dim=0)  # retrieval, which `full_infonce` gives
    both = cross_entropy(logits_NN, target_N) + cross_entropy(logits_NN.T, target_N)
    return float(both)


def infonce_by_us(x_ND: np.ndarray, y_ND: np.ndarray) -> float:
    found = full_infonce(x_ND, y_ND, LOGITS)
    return found.loss + found.reverse_loss


def cka_by_torch(x_ND: np.ndarray, y_ND: np.ndarray) -> float:
    """The unbiased HSIC of Song et al., JMLR 2012, eq. 5, of Gram matrices without diagonals."""
    grams: list[torch.Tensor] = []
    for rows_ND in (x_ND, y_ND):
        wide_ND = torch.from_numpy(rows_ND).double()
        wide_ND -= wide_ND.mean(dim=0)
        grams.append((wide_ND @ wide_ND.T).fill_diagonal_(0))

    def hsic(a_NN: torch.Tensor, b_NN: torch.Tensor) -> torch.Tensor:
        n = len(a_NN)
        together = (a_NN * b_NN).sum()
        totals = a_NN.sum() * b_NN.sum() / ((n - 1) * (n - 2))
        return together + totals - 2 / (n - 2) * a_NN.sum(dim=0) @ b_NN.sum(dim=0)

    x, y = grams
    return float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())


def in_turns(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Medians of CPU seconds after a first turn that is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + TURNS):
        for way, spent in zip((ours, peer), seconds, strict=True):
            start = time.process_time()
            way()
            spent.append(time.process_time() - start)
    return median(seconds[0][1:]), median(seconds[1][1:])


def compared(
    what: str,
    peer: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    wanted: float | None = 1.0,
) -> Ratio:
    mine, other = in_turns(ours, theirs)
    both = f"{mine:.3f} against {other:.3f} CPU s"
    return Ratio(f"{what} against {peer}", other / mine, wanted, measured=both)


def main() -> int:
    keep_freed_memory()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    train_labels_N, test_labels_N = (rng.integers(0, CLASSES, n) for n in (TRAIN, TEST))
    train_ND, test_ND = unit_vectors(rng, train_labels_N, 6), unit_vectors(rng, test_labels_N, 6)
    x_ND = unit_vectors(rng, train_labels_N[:PAIRS], 2)
    y_ND = x_ND + 0.02 * rng.normal(size=x_ND.shape).astype(np.float32)

    def by_sklearn() -> np.ndarray:
        peer = KNeighborsClassifier(
            K,
            weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
            algorithm="brute",
            metric="cosine",
            n_jobs=1,
        )
        return peer.fit(train_ND, train_labels_N).predict(test_ND)

    def by_us() -> np.ndarray:
        return neighbour_labels(train_ND, train_labels_N, test_ND)

    with threadpool_limits(1):
        agreeing = float((by_us() == by_sklearn()).mean())
        pairs = (
            (infonce_by_us(x_ND, y_ND), infonce_by_torch(x_ND, y_ND)),
            (debiased_cka(x_ND, y_ND), cka_by_torch(x_ND, y_ND)),
        )
        ratios = [
            compared(
                f"nearest neighbours, {TRAIN:,} train and {TEST:,} test rows of {DIM} dimensions,",
                "scikit-learn's brute force",
                by_us,
                by_sklearn,
            ),
            compared(
                f"InfoNCE with all of {PAIRS:,} samples as negatives, both directions,",
                "torch's cross-entropy of the whole matrix",
                lambda: infonce_by_us(x_ND, y_ND),
                lambda: infonce_by_torch(x_ND, y_ND),
                wanted=None,  # the same work; what is gained is memory
            ),
            compared(
                f"CKA of {PAIRS:,} x {DIM}",
                "torch's Gram matrices",
                lambda: debiased_cka(x_ND, y_ND),
                lambda: cka_by_torch(x_ND, y_ND),
            ),
        ]
    print(f"equal predictions: {agreeing:.2%}")
    apart = [abs(ours - theirs) for ours, theirs in pairs]
    print(f"InfoNCE differs by {apart[0]:.1e}, CKA by {apart[1]:.1e}")
    return finish(ratios, agreeing >= 0.999 and max(apart) < AGREE)


if __name__ == "__main__":
    sys.exit(main())
