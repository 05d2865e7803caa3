"""OBJECTIVES: (student_BD, teacher_BD, config) -> scalar loss, lower is better.

Both arguments are the whole gathered batch: engines see to it, so that objectives with negatives
or neighbours see the same pairs on any number of ranks. Both are raw; each objective says whether
it takes them as they are or as unit vectors. A sum is written with `+`: `cosine+koleo` is
cosine + koleo_weight * koleo. Weights are fields of TrialConfig and count wherever their term
stands, alone too.

`none` is no objective: nothing is trained. koleo and vicreg look at the student only: alone, they
teach it nothing of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import (
    cosine_similarity,
    cross_entropy,
    mse_loss,
    normalize,
    pairwise_distance,
    relu,
    smooth_l1_loss,
)

from shards.support.registry import Table

if TYPE_CHECKING:
    from trainers.config.schema import TrialConfig as Knobs

Objective = Callable[[torch.Tensor, torch.Tensor, "Knobs"], torch.Tensor]


# ---- student against teacher, one by one ----


def cosine(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """mean_b (1 - cos(student_b, teacher_b)), in [0, 2]; blind to length. arXiv 2603.06698."""
    return (1 - cosine_similarity(student_BD, teacher_BD, dim=1)).mean()


def mse(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """Mean over b and d of (student - teacher)^2, in [0, inf); RAW vectors. CLIP-KD, CVPR 2024.

    On unit vectors it would be 2 (1 - cos) / D: the same run as cosine.
    """
    return mse_loss(student_BD, teacher_BD)


def theia(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """0.9 * cosine + 0.1 * SmoothL1 (mean over b and d), in [0, inf); RAW vectors. Theia, 2024.

    Theia standardises its targets: `target: standardised`.
    """
    length = smooth_l1_loss(student_BD, teacher_BD)
    angle = cosine(student_BD, teacher_BD, knobs)
    return knobs.theia_cosine_weight * angle + knobs.theia_smooth_l1_weight * length


def supervised(student_BE: torch.Tensor, labels_BC: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """Cross-entropy, nats, of the last C columns of the student's output against one-hot labels.

    Its module gives cat([embedding (D), logits (C)]); its target is `labels`.
    """
    return cross_entropy(student_BE[:, -labels_BC.shape[1] :], labels_BC)


# ---- the batch among itself ----


def infonce(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """Cross-entropy of S T' / tau against the diagonal, nats, in [0, inf); UNIT vectors.

    ln(B) when nothing is told apart. T is the teacher, or, where `infonce_positive` is `student`,
    the student of another view of each image: then student_BD is cat([view, other view]).
    van den Oord et al., 2018; CLIP-KD, CVPR 2024.
    """
    if knobs.infonce_positive == "student":
        student_BD, teacher_BD = student_BD.chunk(2, dim=1)
    logits_BB = normalize(student_BD, dim=1) @ normalize(teacher_BD, dim=1).T / knobs.temperature
    return cross_entropy(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device))


def rkd_terms(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(SmoothL1 of distances over their mean, SmoothL1 of the cosines of all triplets' angles)."""
    distances, angles = zip(*map(_relations, (student_BD, teacher_BD)), strict=True)
    return smooth_l1_loss(*distances), smooth_l1_loss(*angles)


def _relations(x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances over the mean of the positive ones (B, B); cosines of the angles (B, B, B).

    angle[j, i, k] is that at j between i and k, 0 where two of them coincide. Coincident points
    give a gradient of 0: the square root never sees a 0.
    """
    apart_BBD = x_BD[None] - x_BD[:, None]
    square_BB = (apart_BBD**2).sum(dim=2)
    positive = square_BB > 0
    distance_BB = torch.where(positive, square_BB, 1).sqrt()
    direction_BBD = apart_BBD / distance_BB[..., None]
    distance_BB = distance_BB * positive
    mean = distance_BB.sum() / positive.sum().clamp_min(1)
    over_mean_BB = distance_BB / torch.where(mean > 0, mean, 1)
    return over_mean_BB, direction_BBD @ direction_BBD.transpose(1, 2)


def rkd(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """25 * distance term + 50 * angle term, in [0, inf); RAW vectors, blind to scale.

    Means are over all pairs and triplets, those of a point with itself included, as its authors'
    code has it. Memory: B^2 D + B^3 numbers. Park et al., CVPR 2019.
    """
    distance, angle = rkd_terms(student_BD, teacher_BD)
    return knobs.rkd_distance_weight * distance + knobs.rkd_angle_weight * angle


def sp(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """|| rownorm(S S') - rownorm(T T') ||_F^2 / B^2, in [0, 4 / B]; RAW vectors.

    Tung & Mori, ICCV 2019.
    """
    student_BB = normalize(student_BD @ student_BD.T, dim=1)
    teacher_BB = normalize(teacher_BD @ teacher_BD.T, dim=1)
    return ((student_BB - teacher_BB) ** 2).mean()


# ---- the student alone ----


def vicreg_terms(student_BD: torch.Tensor, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean_d relu(gamma - sqrt(var_d + 1e-4)), sum of squared covariances of pairs / D)."""
    centred_BD = student_BD - student_BD.mean(dim=0)
    covariance_DD = centred_BD.T @ centred_BD / (len(student_BD) - 1)
    variance_D = covariance_DD.diagonal()
    spread = relu(gamma - (variance_D + 1e-4).sqrt()).mean()
    return spread, ((covariance_DD**2).sum() - (variance_D**2).sum()) / len(variance_D)


def vicreg(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """25 * variance term + 1 * covariance term, in [0, inf); RAW vectors, or UNIT if asked.

    gamma is 1; on unit vectors, where 1 cannot be reached, 1 / sqrt(D). Bardes et al., ICLR 2022.
    """
    unit = knobs.vicreg_vectors == "unit"
    x_BD = normalize(student_BD, dim=1) if unit else student_BD
    gamma = knobs.vicreg_gamma
    if gamma is None:
        gamma = x_BD.shape[1] ** -0.5 if unit else 1.0
    spread, covariance = vicreg_terms(x_BD, gamma)
    return knobs.vicreg_variance_weight * spread + knobs.vicreg_covariance_weight * covariance


def koleo(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """- mean_i ln || z_i - nearest z_j ||, in [-ln 2, inf); UNIT vectors.

    1e-8 is added to differences and distance, as DINOv2 does: coincident points give a large
    gradient, but a finite one. Sablayrolles et al., ICLR 2019; DINOv2, 2023.
    """
    z_BD = normalize(student_BD, dim=1, eps=1e-8)
    with torch.no_grad():
        cosine_BB = z_BD @ z_BD.T
        cosine_BB.fill_diagonal_(-2)
        nearest_B = cosine_BB.argmax(dim=1)
    return -(pairwise_distance(z_BD, z_BD[nearest_B], eps=1e-8) + 1e-8).log().mean()


# ---- by name ----


def _weighted(term: Objective, field: str) -> Objective:
    def weighted(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
        return getattr(knobs, field) * term(student_BD, teacher_BD, knobs)

    return weighted


class Objectives(Table[Objective]):
    """Terms by name; `a+b` is the sum of a and b."""

    def __missing__(self, name: str) -> Objective:
        names = name.split("+")
        if len(names) == 1:
            return super().__missing__(name)
        terms = [(self[each], each == "infonce") for each in names]

        def total(student_BD: torch.Tensor, teacher_BD: torch.Tensor, knobs: Knobs) -> torch.Tensor:
            first_BD = student_BD[:, : teacher_BD.shape[1]]  # infonce may have a second view
            return torch.stack(
                [term(student_BD if both else first_BD, teacher_BD, knobs) for term, both in terms]
            ).sum()

        return total


OBJECTIVES = Objectives(
    "objective",
    {
        "cosine": cosine,
        "mse": mse,
        "theia": theia,
        "infonce": _weighted(infonce, "infonce_weight"),
        "rkd": rkd,
        "sp": _weighted(sp, "sp_weight"),
        "vicreg": vicreg,
        "koleo": _weighted(koleo, "koleo_weight"),
        "supervised": supervised,
    },
)
UNTRAINED = "none"  # no objective: the student is measured as it was made, as with `epochs: 0`
FIELDS: dict[str, tuple[str, ...]] = {  # of TrialConfig that a term reads
    "cosine": (),
    "mse": (),
    "theia": ("theia_cosine_weight", "theia_smooth_l1_weight"),
    "infonce": ("infonce_weight", "temperature", "infonce_positive"),
    "rkd": ("rkd_distance_weight", "rkd_angle_weight"),
    "sp": ("sp_weight",),
    "vicreg": (
        "vicreg_variance_weight",
        "vicreg_covariance_weight",
        "vicreg_gamma",
        "vicreg_vectors",
    ),
    "koleo": ("koleo_weight",),
    "supervised": (),
}


def canonical_objective(name: str) -> str:
    """Terms in the table's order: `koleo+cosine` -> `cosine+koleo`. Raises: ValueError."""
    if name == UNTRAINED:
        return name
    terms = name.split("+")
    for term in terms:
        _ = OBJECTIVES[term]
    if len(set(terms)) < len(terms):
        raise ValueError(f"objective: `{name}` has a term twice; its weight is a field of its own")
    if "supervised" in terms and len(terms) > 1:
        raise ValueError(f"objective: `{name}`: `supervised` has no teacher; it stands alone")
    return "+".join(sorted(terms, key=list(OBJECTIVES).index))


def unread_fields(name: str) -> set[str]:
    """Fields of objectives that have no effect under this one.

    A term that is not among FIELDS (one of the user's own) may read any of them.
    """
    every = {field for fields in FIELDS.values() for field in fields}
    terms = name.split("+")
    if any(term not in FIELDS for term in terms):
        return set()
    return every - {field for term in terms for field in FIELDS[term]}
