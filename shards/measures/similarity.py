"""Similarity of two embedding spaces: subspace alignment, CKA, cosine.

Both have the same N samples in the same order, with D and E dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from shards.measures.moments import Matrix, Moments, Rows, Vector, blocks, wide

NAN = float("nan")


def components(moments: Moments) -> tuple[Vector, Matrix]:
    """Principal components: variances (K,), descending, and directions (D, K).

    K is the rank of the covariance: directions without variance are left out.
    """
    keep = int((moments.eigenvalues() > 0).sum())
    values_D, basis_DD = np.linalg.eigh(moments.m2_DD)
    return values_D[::-1][:keep] / moments.count, basis_DD[:, ::-1][:, :keep]


def subspace_alignment(student: Moments, teacher: Moments) -> Vector:
    """Share of the student's centred variance in the teacher's first k components, k = 1 to K.

        share_k = sum_{j <= k} u_j^T C_student u_j / tr C_student

    Returns (K,) in [0, 1], non-decreasing; 1 at k = D. K is the rank of the teacher's covariance,
    beyond which the teacher has no further directions. [NaN] if widths differ or one of the two
    does not vary. Source: arXiv 2603.06698, fig. 1.
    """
    _, basis_DK = components(teacher)
    if student.mean_D.shape != teacher.mean_D.shape or basis_DK.shape[1] == 0:
        return np.array([NAN])
    total = student.variance * student.count
    if not student.eigenvalues().any():
        return np.array([NAN])
    inside_K: Vector = np.einsum("dk,dk->k", basis_DK, student.m2_DD @ basis_DK)
    return np.minimum(np.cumsum(np.maximum(inside_K, 0.0)) / total, 1.0)


def debiased_cka(x_ND: Rows, y_NE: Rows, both: Moments | None = None) -> float:
    """Linear centred kernel alignment with the debiased HSIC, without an N x N matrix.

        h(x, y) / sqrt(h(x, x) h(y, y)),
        h(x, y) = |X^T Y|_F^2 - N / (N - 2) sum_i |x_i|^2 |y_i|^2
                  + |X|_F^2 |Y|_F^2 / ((N - 1)(N - 2)),     rows centred.

    At most 1 in expectation; about 0, sometimes below, for independent sets; higher is more
    similar. Invariant to rotations, shifts and scales. NaN for N < 4 or if one set does not vary.
    `both`: the joint moments of x and y, which saves a pass over the rows if available.
    Sources: Kornblith et al., ICML 2019; Song et al., JMLR 2012.
    """
    state = both or Moments.of(x_ND, y_NE)
    count, width = state.count, x_ND.shape[1]
    first, second = state.part(0, width), state.part(width, len(state.mean_D))
    if count < 4 or not first.eigenvalues().any() or not second.eigenvalues().any():
        return NAN
    fourth_3 = np.zeros(3)
    for x_BD, y_BE in zip(blocks(x_ND), blocks(y_NE), strict=True):
        a_B: Vector = ((x_BD - first.mean_D) ** 2).sum(axis=1)
        b_B: Vector = ((y_BE - second.mean_D) ** 2).sum(axis=1)
        fourth_3 += (a_B @ b_B, a_B @ a_B, b_B @ b_B)
    cross_DE = state.m2_DD[:width, width:]
    squares_3 = [float((m**2).sum()) for m in (cross_DE, first.m2_DD, second.m2_DD)]
    a, b = first.variance * count, second.variance * count
    traces_3 = np.array([a * b, a * a, b * b])
    hsic_3 = squares_3 - count / (count - 2) * fourth_3 + traces_3 / ((count - 1) * (count - 2))
    if not (hsic_3[1:] > 0).all():
        return NAN
    return float(hsic_3[0] / np.sqrt(hsic_3[1] * hsic_3[2]))


def mean_cosine(x_ND: Rows, y_ND: Rows, order: Literal["blocks", "rows"] = "blocks") -> float:
    """Mean of x_i . y_i over unit vectors of the same samples, in [-1, 1]; higher is closer.

    NaN if widths differ. `order` is the order of the float64 sum: over all entries of a block, or
    first over the dimensions of each row. It changes at most the last bit, but stored results that
    were computed in either order must remain reproducible bit for bit.
    """
    if x_ND.shape != y_ND.shape:
        return NAN
    if order == "rows":
        return float(np.einsum("nd,nd->n", wide(x_ND), wide(y_ND)).mean())
    pairs = zip(blocks(x_ND), blocks(y_ND), strict=True)
    return sum(float((x_BD * y_BD).sum()) for x_BD, y_BD in pairs) / len(x_ND)
