"""The spectrum from moments against torch's float64 singular values, in one run.

    python benchmarks/spectrum.py

10,000 embeddings of 512 dimensions: all directions in use, and rank-deficient ones as float64 and
as float32. Prints seconds of both, their ratio, the errors of every rank against float64 SVD, and
what memory 16 times as many rows take; ends with 1 where the moments are slower than svdvals, an
error is above 1e-9 (measures of s^2) or 1e-4 (of s), or memory grows with N.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ratios import Ratio, finish

from shards.measures.moments import Moments
from shards.measures.spectrum import (
    centred_eigenvalues,
    paper_rank,
    participation_ratio,
    rank_from_eigenvalues,
    rankme,
    roy_vetterli_rank,
)

COUNT, WIDTH, RANK, ROUNDS = 10_000, 512, 40, 3
SQUARES, ROOTS, GROWTH = 1e-9, 1e-4, 1.5


def unit_rows(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def inputs() -> dict[str, np.ndarray]:
    """Unit rows in a narrow cone with a decaying spectrum, of full and of deficient rank."""
    rng = np.random.default_rng(0)
    axes_DD = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    decay_D = np.arange(1, WIDTH + 1) ** -0.75
    full_ND = (rng.normal(size=(COUNT, WIDTH)) * decay_D) @ axes_DD + 3 * axes_DD[0]
    weights_NR = rng.normal(size=(COUNT, RANK)) * decay_D[:RANK]
    weights_NR[:, 0] += 3
    low_ND = weights_NR @ axes_DD[:RANK]
    return {
        "full rank, float32": unit_rows(full_ND).astype(np.float32),
        f"rank {RANK}, float64": unit_rows(low_ND),
        f"rank {RANK}, float32": unit_rows(low_ND).astype(np.float32),
    }


def seconds(*actions: Callable[[], Any]) -> list[float]:
    """Of each the median; they take turns, so that a busy machine slows both."""
    rounds: list[list[float]] = [[] for _ in actions]
    for _ in range(ROUNDS):
        for action, found in zip(actions, rounds, strict=True):
            start = time.perf_counter()
            action()
            found.append(time.perf_counter() - start)
    return [float(np.median(found)) for found in rounds]


def errors(x_ND: np.ndarray) -> tuple[float, float]:
    """Largest difference from float64 SVD of the measures of s^2, and of those of s."""
    wide_ND = x_ND.astype(np.float64)
    s_D = np.linalg.svd(wide_ND - wide_ND.mean(axis=0), compute_uv=False)
    p_D = s_D**2 / np.sum(s_D**2)
    q_D = s_D / s_D.sum()
    whole_D = np.linalg.svd(wide_ND, compute_uv=False)
    r_D = whole_D / whole_D.sum() + 1e-7
    tiny = np.finfo(np.float64).tiny
    values_D = centred_eigenvalues(x_ND)
    squares = [
        rank_from_eigenvalues(values_D) - np.exp(-np.sum(p_D * np.log(p_D + tiny))),
        paper_rank(values_D) - np.exp(-np.sum(p_D * np.log(p_D + 1e-10))),
        participation_ratio(values_D) - 1 / np.sum(p_D**2),
    ]
    roots = [
        roy_vetterli_rank(values_D) - np.exp(-np.sum(q_D * np.log(q_D + tiny))),
        rankme(x_ND) - np.exp(-np.sum(r_D * np.log(r_D))),
    ]
    return float(np.abs(squares).max()), float(np.abs(roots).max())


def peak(count: int) -> int:
    """Bytes at most while the spectrum of `count` rows is taken, the rows not counted."""
    x_ND = np.random.default_rng(0).normal(size=(count, 64)).astype(np.float32)
    tracemalloc.start()
    centred_eigenvalues(x_ND)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def main() -> int:
    failed, ratios = False, list[Ratio]()
    print(f"{COUNT:,} x {WIDTH}, {torch.get_num_threads()} threads, medians of {ROUNDS}")
    for name, x_ND in inputs().items():
        rows_ND = torch.from_numpy(x_ND)

        def with_svd(rows_ND: torch.Tensor = rows_ND) -> torch.Tensor:
            wide_ND = rows_ND.double()
            return torch.linalg.svdvals(wide_ND - wide_ND.mean(dim=0))

        def with_moments(x_ND: np.ndarray = x_ND) -> np.ndarray:
            return centred_eigenvalues(x_ND)

        theirs, ours, state = seconds(with_svd, with_moments, lambda x=x_ND: moments_alone(x))
        squares, roots = errors(x_ND)
        what = f"spectrum of {COUNT:,} x {WIDTH} ({name}) against torch's svdvals"
        both = f"{ours:.3f} against {theirs:.3f} s; from merged moments {state:.3f} s"
        ratios.append(Ratio(what, theirs / ours, 1, measured=both))
        print(f"{name}: svdvals {theirs:.3f} s, ours {ours:.3f} s")
        print(f"  errors: s^2 {squares:.1e} (at most {SQUARES:g}), s {roots:.1e} ({ROOTS:g})")
        failed |= squares > SQUARES or roots > ROOTS
    small, large = peak(20_000), peak(320_000)
    growth = large / small
    what = "memory of the spectrum at 320,000 rows against 20,000"
    ratios.append(Ratio(what, growth, GROWTH, at_least=False))
    return finish(ratios, not failed)


def moments_alone(x_ND: np.ndarray) -> np.ndarray:
    return Moments.of(x_ND).eigenvalues()


if __name__ == "__main__":
    sys.exit(main())
