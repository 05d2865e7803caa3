"""Mean and centred second moments of rows in float64: small states that can be merged.

The state of N rows with D columns has 1 + D + D^2 numbers for any N, and covariances, spectra, CKA
and ridge regressions follow from it without the rows. Rows may be NumPy arrays or tensors of any
float type on any device; they are converted to float64 in blocks, so memory does not depend on N.

Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Rows = NDArray[Any] | torch.Tensor

BLOCK = 2048  # rows converted at a time
EPS = float(np.finfo(np.float64).eps)


def wide(rows: Rows) -> Matrix:
    """An array or tensor as a float64 NumPy array in host memory."""
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu().to(torch.float64).numpy()
    return np.asarray(rows, dtype=np.float64)


def blocks(x_ND: Rows) -> Iterator[Matrix]:
    """Yield consecutive blocks of at most BLOCK rows as float64."""
    for start in range(0, len(x_ND), BLOCK):
        yield wide(x_ND[start : start + BLOCK])


@dataclass(frozen=True)
class Moments:
    """count: N; mean_D: the mean row; m2_DD: sum_n (x_n - mean)(x_n - mean)^T, not divided by N."""

    count: int
    mean_D: Vector
    m2_DD: Matrix

    @classmethod
    def of(cls, *sets: Rows) -> Moments:
        """Moments of one set of rows (N, D), or joint moments of several.

        Sets (N, D) and (N, E) of the same samples give moments with D + E columns.

        Raises: ValueError where a set is not (N, D) with N, D > 0, lengths differ, or a number is
        not finite or so large that its square is not.
        """
        shapes = [tuple(x.shape) for x in sets]
        if any(len(shape) != 2 or 0 in shape for shape in shapes):
            raise ValueError(f"embeddings must be rows (N, D) with N, D > 0; got {shapes}")
        if len({shape[0] for shape in shapes}) != 1:
            raise ValueError(f"sets of embeddings differ in length: {shapes}; give the same rows")
        width = sum(shape[1] for shape in shapes)
        state = cls(0, np.zeros(width), np.zeros((width, width)))
        for parts in zip(*(blocks(x) for x in sets), strict=True):
            rows_BD = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            state = state.merge(cls._of_block(rows_BD))
        return state

    @classmethod
    def _of_block(cls, rows_BD: Matrix) -> Moments:
        with np.errstate(over="ignore", invalid="ignore"):
            mean_D: Vector = rows_BD.mean(axis=0)
            centred_BD: Matrix = rows_BD - mean_D
            m2_DD: Matrix = centred_BD.T @ centred_BD
        if not np.isfinite(m2_DD).all():
            if np.isfinite(rows_BD).all():
                raise ValueError("embeddings are too large: their squares overflow; scale them")
            raise ValueError("moments need finite embeddings; got NaN or infinity")
        return cls(len(rows_BD), mean_D, m2_DD)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together; the order of merging only affects rounding."""
        if self.mean_D.shape != other.mean_D.shape:
            widths = f"{len(self.mean_D)} and {len(other.mean_D)}"
            raise ValueError(f"moments of widths {widths} cannot be merged; give equal widths")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        gap_D = other.mean_D - self.mean_D
        weight = self.count * other.count / count
        mean_D = self.mean_D + gap_D * (other.count / count)
        return Moments(count, mean_D, self.m2_DD + other.m2_DD + weight * np.outer(gap_D, gap_D))

    def part(self, start: int, stop: int) -> Moments:
        """Moments of the columns [start, stop) only."""
        columns = slice(start, stop)
        return Moments(self.count, self.mean_D[columns], self.m2_DD[columns, columns])

    @property
    def variance(self) -> float:
        """Total variance tr C = (1/N) sum_n |x_n - mean|^2."""
        return float(np.trace(self.m2_DD)) / self.count

    @property
    def square(self) -> float:
        """Mean squared norm of a row, (1/N) sum_n |x_n|^2; 1 for unit vectors."""
        return self.variance + float(self.mean_D @ self.mean_D)

    @property
    def uncentred_DD(self) -> Matrix:
        """The second moment about 0: sum_n x_n x_n^T, (D, D)."""
        return self.m2_DD + self.count * np.outer(self.mean_D, self.mean_D)

    @property
    def noise(self) -> float:
        """The size up to which a singular value of the rows may be caused by rounding alone.

        eps * max(N, D) * |X|_F, NumPy's convention for matrix ranks.
        """
        norm = float(np.sqrt(self.square * self.count))
        return EPS * max(self.count, len(self.mean_D)) * norm

    def eigenvalues(self) -> Vector:
        """Eigenvalues of the covariance m2 / N, float64 (D,), descending, none negative.

        Values below eps * D * trace, which rounding of the sums may have produced, are set to 0. In
        terms of singular values this is anything below about 3e-7 of the largest (D = 512). If the
        rows are available, `spectrum.centred_eigenvalues` resolves these values too.
        """
        values_D: Vector = np.linalg.eigvalsh(self.m2_DD)[::-1].astype(np.float64)
        floor = max(EPS * len(values_D) * float(np.trace(self.m2_DD)), self.noise**2)
        return np.where(values_D > floor, values_D, 0.0) / self.count
