"""TARGETS: what the student learns to reproduce, made from the teacher's stored embeddings.

    teacher            T, the stored embedding
    standardised       (T - mean) / std, each dimension by itself            Theia, 2024
    phi_s              H U'(T - mean) / sqrt(mean lambda)                    PHI-S, RADIO, 2024
    whitened[:EPS]     (Lambda + EPS * mean lambda * I)^-1/2 U'(T - mean)    (EPS 1e-4)
    pca:K              mean + U_K U_K'(T - mean): rank K, still in the teacher's space
    labels             one-hot labels, for the objective `supervised`

T are RAW vectors (unit vector times its stored norm), and so are all targets: an objective on
unit vectors normalises them itself. mean, std and the eigenvectors U and eigenvalues lambda of
the covariance (1/N, descending) are those of the clean train images' stored embeddings, in
float64. Targets teacher and pca:K lie in the teacher's space. The others do not: phi_s and whitened
are rotated, standardised is moved and stretched, labels are classes; there a cosine to the teacher
has no meaning, and is not reported (`trainers.probes.teacher_space`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import one_hot

from shards.bank.splits import Column, Split
from shards.support.registry import Table, split_spec

Matrix = NDArray[np.float64]
CHUNK = 4096  # rows that are converted to float64 at once
EPS = 1e-4  # of whitening, as a share of the mean eigenvalue
FP16_ROUNDING = 2**-11  # largest error of a number in fp16, as a share of it
FP16_NORMAL = 2**-14  # smallest number of which that is true


@dataclass(frozen=True)
class Target:
    """target = offset + (T - mean) A', computed in float64; T itself without `matrix_ED`.

    spec: its canonical name. mean_D, matrix_ED (A), offset_E: float64. classes: C for one-hot
    labels, else 0.
    """

    spec: str
    mean_D: torch.Tensor | None = None
    matrix_ED: torch.Tensor | None = None
    offset_E: torch.Tensor | None = None
    classes: int = 0

    def to(self, device: torch.device) -> Target:
        """A copy with its tensors on `device`."""
        parts = (self.mean_D, self.matrix_ED, self.offset_E)
        mean, matrix, offset = (part if part is None else part.to(device) for part in parts)
        return Target(self.spec, mean, matrix, offset, self.classes)

    def __call__(self, raw_BD: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """float32 raw embeddings (B, D) and int64 labels (B,) -> targets float32 (B, E)."""
        if self.classes:
            return one_hot(labels_B, self.classes).float()
        if self.matrix_ED is None:
            return raw_BD
        assert self.mean_D is not None
        assert self.offset_E is not None
        target_BE = (raw_BD.double() - self.mean_D) @ self.matrix_ED.T + self.offset_E
        return target_BE.float()


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D), with 1/N, of `count` = N raw embeddings, in float64."""

    count: int
    mean_D: Matrix
    covariance_DD: Matrix

    @functools.cached_property
    def principal(self) -> tuple[Matrix, Matrix]:
        """(lambda_D descending, none negative; U_DD with eigenvectors as columns).

        An eigenvector is defined up to its sign; here its entry of largest absolute value is
        positive, so that results do not depend on the LAPACK in use.
        """
        lambda_D, u_DD = np.linalg.eigh(self.covariance_DD)
        u_DD = u_DD[:, ::-1]
        largest_D = np.abs(u_DD).argmax(axis=0)
        signs_D = np.sign(u_DD[largest_D, np.arange(len(largest_D))])
        return np.clip(lambda_D[::-1], 0, None), u_DD * signs_D

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean_D)


def raw_rows(
    embedding_NVD: Column, norm_NV: np.ndarray, rows: slice | np.ndarray, view: int = 0
) -> Matrix:
    """Raw embeddings of one view, unit vectors times their norms: float64 (rows, D)."""
    unit_ND = np.asarray(embedding_NVD[rows, view], dtype=np.float64)
    return unit_ND * norm_NV[rows, view, None].astype(np.float64)


def moments_of(split: Split, order_N: np.ndarray | None = None) -> Moments:
    """The moments of view 0 of a split's raw embeddings, in two passes over chunks.

    Samples are summed in the order of the rows `order_N`, by default as they are stored; the order
    changes rounding alone.

    Two passes, mean first, because E[x^2] - E[x]^2 would lose digits. Raises: ValueError for N < 2.
    """
    count, _, dim = split.embedding_NVD.shape
    if count < 2:
        raise ValueError(f"its statistics need 2 train samples or more; got {count}")
    total_D, total_DD = np.zeros(dim), np.zeros((dim, dim))
    chunks: list[slice | np.ndarray] = [
        slice(at, min(at + CHUNK, count)) if order_N is None else order_N[at : at + CHUNK]
        for at in range(0, count, CHUNK)
    ]
    for rows in chunks:
        total_D += raw_rows(split.embedding_NVD, split.norm_NV, rows).sum(axis=0)
    mean_D = total_D / count
    for rows in chunks:
        centred_ND = raw_rows(split.embedding_NVD, split.norm_NV, rows) - mean_D
        total_DD += centred_ND.T @ centred_ND
    return Moments(count, mean_D, total_DD / count)


def equalising_rotation(lambda_D: Matrix) -> Matrix:
    """Orthogonal H (D, D) for which H diag(lambda) H' has a constant diagonal, mean lambda.

    Where D is a power of two it is Sylvester's Hadamard matrix over sqrt(D), as in PHI-S, which
    has this property for every lambda. For other D it is a product of at most D - 1 plane
    rotations, each of which brings one diagonal entry to the mean (Bendel & Mickey, 1978), and so
    depends on lambda.
    """
    dim = len(lambda_D)
    if dim & (dim - 1) == 0:
        h_DD = np.ones((1, 1))
        while len(h_DD) < dim:
            h_DD = np.block([[h_DD, h_DD], [h_DD, -h_DD]])
        return h_DD / np.sqrt(dim)
    h_DD, turned_DD, mean = np.eye(dim), np.diag(lambda_D), float(lambda_D.mean())
    for _ in range(dim - 1):
        excess_D = turned_DD.diagonal() - mean
        low, high = int(excess_D.argmin()), int(excess_D.argmax())
        a, b, c = excess_D[low], excess_D[high], turned_DD[low, high]
        if a >= 0 or b <= 0:
            break  # every diagonal entry equals the mean
        # The rotation by the angle with tangent t brings entry `low` to the mean where
        # a + 2 t c + t^2 b = 0. Since a < 0 < b, that has two real roots; either will do.
        t = (-c + np.sqrt(c * c - a * b)) / b
        cos, sin = 1 / np.hypot(1, t), t / np.hypot(1, t)
        plane = np.array([[cos, sin], [-sin, cos]])
        rows = [low, high]
        h_DD[rows] = plane @ h_DD[rows]
        turned_DD[rows] = plane @ turned_DD[rows]
        turned_DD[:, rows] = turned_DD[:, rows] @ plane.T
    return h_DD


# ---- by name ----


@dataclass(frozen=True)
class Source:
    """What a target is computed from: the clean train split, and the number of classes C."""

    clean_train: Split
    classes: int

    @functools.cached_property
    def moments(self) -> Moments:
        """Moments of the clean train embeddings, computed once."""
        return moments_of(self.clean_train)


def _affine(spec: str, source: Source, matrix_ED: Matrix, offset_E: Matrix | None = None) -> Target:
    if offset_E is None:
        offset_E = np.zeros(len(matrix_ED))
    parts = (source.moments.mean_D, matrix_ED, offset_E)
    mean, matrix, offset = (
        torch.from_numpy(np.ascontiguousarray(part))  # pyright: ignore[reportUnknownMemberType]
        for part in parts
    )
    return Target(spec, mean, matrix, offset)


def _teacher(spec: str, argument: str, source: Source) -> Target:
    return Target(spec)


def _labels(spec: str, argument: str, source: Source) -> Target:
    return Target(spec, classes=source.classes)


def _standardised(spec: str, argument: str, source: Source) -> Target:
    """A dimension that never varies is only centred: rounding to fp16 is all its deviation."""
    variance_D = source.moments.covariance_DD.diagonal()
    square_D = variance_D + source.moments.mean_D**2
    # Numbers of the stored unit vectors are rounded in proportion to their size, but those below
    # fp16's normal range by one amount.
    rms_D = np.maximum(np.sqrt(square_D), FP16_NORMAL * np.sqrt(square_D.sum()))
    std_D = np.sqrt(variance_D)
    return _affine(spec, source, np.diag(1 / np.where(std_D > FP16_ROUNDING * rms_D, std_D, 1)))


def _phi_s(spec: str, argument: str, source: Source) -> Target:
    lambda_D, u_DD = source.moments.principal
    scale = np.sqrt(lambda_D.mean())
    return _affine(spec, source, equalising_rotation(lambda_D) @ u_DD.T / (scale or 1.0))


def _whitened(spec: str, argument: str, source: Source) -> Target:
    lambda_D, u_DD = source.moments.principal
    floor = float(argument) * (lambda_D.mean() or 1.0)
    return _affine(spec, source, u_DD.T / np.sqrt(lambda_D + floor)[:, None])


def principal_map(k: int, moments: Moments) -> tuple[Matrix, Matrix]:
    """(mean_D, U_DK) of the first k principal components.

    Raises: ValueError where there are fewer than k.
    """
    most = min(moments.dim, moments.count - 1)
    if k > most:
        raise ValueError(
            f"{moments.count} train embeddings of {moments.dim} dimensions have {most} "
            f"components at most, not {k}"
        )
    return moments.mean_D, moments.principal[1][:, :k]


def _pca(spec: str, argument: str, source: Source) -> Target:
    mean_D, u_DK = principal_map(int(argument), source.moments)
    return _affine(spec, source, u_DK @ u_DK.T, mean_D)


@dataclass(frozen=True)
class TargetKind:
    """One entry of TARGETS.

    make: (spec, its argument, what it is computed from) -> the target.
    in_teacher_space: whether it has the teacher's origin and axes, so that a student that reaches
        it can be compared with the teacher's embeddings by cosines.
    """

    make: Callable[[str, str, Source], Target]
    in_teacher_space: bool = False


TARGETS: Table[TargetKind] = Table(
    "target",
    {
        "teacher": TargetKind(_teacher, in_teacher_space=True),
        "standardised": TargetKind(_standardised),
        "phi_s": TargetKind(_phi_s),
        "whitened": TargetKind(_whitened),
        "pca": TargetKind(_pca, in_teacher_space=True),
        "labels": TargetKind(_labels),
    },
)


def in_teacher_space(spec: str) -> bool:
    """Whether a target has the teacher's origin and axes. Raises: ValueError for another name."""
    return TARGETS[split_spec(spec)[0]].in_teacher_space


def canonical_target(spec: str) -> str:
    """One spelling for each target: `whitened` -> `whitened:0.0001`, `pca:016` -> `pca:16`.

    Raises: ValueError for an unknown name or a wrong argument.
    """
    name, argument = split_spec(spec)
    _ = TARGETS[name]
    if name == "pca":
        return f"pca:{whole_argument('target', spec, argument)}"
    if name == "whitened":
        try:
            eps = float(f"{float(argument):g}") if argument else EPS
        except ValueError:
            eps = 0.0
        if not 0 < eps <= 1:
            raise ValueError(
                f"target: `{spec}`: EPS must be a number in (0, 1], a share of the mean "
                f"eigenvalue, such as whitened:{EPS:g}"
            )
        return f"whitened:{eps:g}"
    if argument and name in ("teacher", "standardised", "phi_s", "labels"):
        raise ValueError(f"target: `{spec}`: `{name}` takes no argument")
    return spec.removesuffix(":")


def whole_argument(field: str, spec: str, argument: str) -> int:
    """The K of `NAME:K`, 1 or more. Raises: ValueError naming the field."""
    if not re.fullmatch(r"[0-9]{1,9}", argument) or int(argument) == 0:
        name, _ = split_spec(spec)
        raise ValueError(f"{field}: `{spec}`: write {name}:K, K a whole number of 1 or more")
    return int(argument)


def make_target(spec: str, clean_train: Split, classes: int) -> Target:
    """The target that `spec` names, with statistics of the clean train split.

    classes: C, for `labels`. Raises: ValueError for a wrong spec, or too few train samples for it.
    """
    spec = canonical_target(spec)
    name, argument = split_spec(spec)
    try:
        return TARGETS[name].make(spec, argument, Source(clean_train, classes))
    except ValueError as error:
        raise ValueError(f"target: `{spec}`: {error}") from None
