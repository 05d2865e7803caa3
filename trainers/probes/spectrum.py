"""How many dimensions an embedding space uses.

Each measure takes the eigenvalues of the centred covariance, so adding a constant to all
embeddings or rotating them changes nothing. All depend on N: compare equal N only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.probes.features import FeatureBank

Vector = NDArray[np.float64]


def centred_eigenvalues(x_ND: NDArray[Any]) -> Vector:
    """Eigenvalues of the centred covariance (1/N), float64 (D,), descending, none negative.

    They are squared singular values: of X'X, the small ones would be rounding noise, which the
    square root in `roy_vetterli_rank` makes visible. What is below the precision of float64 is 0.
    Errors: ValueError for fewer than 2 samples or values that are not finite.
    """
    if x_ND.ndim != 2 or len(x_ND) < 2:
        raise ValueError(f"a spectrum needs at least 2 samples in rows; got shape {x_ND.shape}")
    wide_ND = _finite(x_ND)
    noise = np.finfo(np.float64).eps * max(wide_ND.shape) * float(np.linalg.norm(wide_ND))
    s_K = np.linalg.svd(wide_ND - wide_ND.mean(axis=0), compute_uv=False)
    values_D = np.zeros(wide_ND.shape[1])
    values_D[: len(s_K)] = np.where(s_K > noise, s_K, 0.0) ** 2 / len(wide_ND)
    return values_D


def _finite(x_ND: NDArray[Any]) -> Vector:
    if not np.isfinite(x_ND).all():
        raise ValueError("a spectrum needs finite embeddings; got NaN or infinity")
    return x_ND.astype(np.float64)


def _shares(values_D: Vector) -> Vector:
    total = values_D.sum()
    return values_D / total if total > 0 else np.zeros_like(values_D)


def _exp_entropy(p_D: Vector) -> float:
    """exp(-sum p ln p) with 0 ln 0 = 0; 0 when nothing varies."""
    positive = p_D[p_D > 0]
    return float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0


def effective_rank(x_ND: NDArray[Any]) -> float:
    """exp H(p), p = lambda / sum lambda. In [1, min(N - 1, D)]; arXiv 2603.06698, eq. 2."""
    return _exp_entropy(_shares(centred_eigenvalues(x_ND)))


def roy_vetterli_rank(values_D: Vector) -> float:
    """exp H(p), p = s / sum s with s = sqrt(lambda). Roy & Vetterli, EUSIPCO 2007."""
    return _exp_entropy(_shares(np.sqrt(values_D)))


def rankme(x_ND: NDArray[Any]) -> float:
    """exp H(p), p = s / sum s + 1e-7, s the singular values of the UNCENTRED matrix.

    0 when all are zero. Garrido et al., ICML 2023.
    """
    s_D = np.linalg.svd(_finite(x_ND), compute_uv=False)
    if not s_D.any():
        return 0.0
    p_D = s_D / s_D.sum() + 1e-7
    return float(np.exp(-(p_D * np.log(p_D)).sum()))


def participation_ratio(values_D: Vector) -> float:
    """tr(C)^2 / tr(C^2), in [1, D]; 0 when nothing varies."""
    square = float((values_D**2).sum())
    return float(values_D.sum()) ** 2 / square if square > 0 else 0.0


def dims_for(values_D: Vector, share: float) -> int:
    """The smallest k whose leading eigenvalues hold `share` of the variance; 0 without any."""
    cumulative_D = np.cumsum(_shares(values_D))
    if cumulative_D[-1] == 0:
        return 0
    return int(np.searchsorted(cumulative_D, share - 1e-12) + 1)


def spectrum(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Ranks of the clean test embeddings, their spectrum, and the cosine to the teacher."""
    wide_ND = bank.test_ND.astype(np.float64)
    values_D = centred_eigenvalues(wide_ND)
    shares_D = _shares(values_D)
    yield "rank/effective", _exp_entropy(shares_D)
    yield "rank/roy_vetterli", roy_vetterli_rank(values_D)
    yield "rank/rankme", rankme(bank.test_ND)
    yield "rank/participation", participation_ratio(values_D)
    for percent in (90, 95, 99):
        yield f"dims/{percent}", float(dims_for(values_D, percent / 100))
    yield "cosine_to_teacher", float((wide_ND * bank.teacher_ND).sum(axis=1).mean())
    yield "spectrum", shares_D.tolist()
