"""OBJECTIVES: what a student is trained to minimise.

    loss = make_objective("cosine+koleo", {"koleo_weight": 0.2})
    loss(student_BD, teacher_BD)      # a scalar, lower is better

Both arguments are whole batches, gathered from all ranks: objectives with negatives or neighbours
see the same pairs on any number of ranks. Both are raw (not normalised) vectors; the docstring of
each objective says whether it uses them raw or as unit vectors. A sum is written with `+`:
`cosine+koleo` is cosine + koleo_weight * koleo.

An entry holds a function and the class of its fields, which become fields of every trial. The
weight of a term applies also where the term is the whole objective. The objective `none` trains
nothing. koleo and vicreg read the student's embeddings only: without another term the student
learns nothing about the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn.functional import (
    cosine_similarity,
    cross_entropy,
    mse_loss,
    normalize,
    pairwise_distance,
    relu,
    smooth_l1_loss,
)

from trainers.config.types import Number
from trainers.objectives.base import Loss, Objective, ObjectiveFields, Objectives, sum_of

UNTRAINED = "none"  # no objective: the student is measured as initialised, as with `epochs: 0`

# ---- each student embedding against its teacher embedding ----


def cosine(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """mean_b (1 - cos(student_b, teacher_b)), in [0, 2]; scale-invariant. arXiv 2603.06698."""
    return (1 - cosine_similarity(student_BD, teacher_BD, dim=1)).mean()


def mse(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Mean over b and d of (student - teacher)^2, in [0, inf); RAW vectors. CLIP-KD, CVPR 2024.

    On unit vectors it would be 2 (1 - cos) / D, the same as `cosine` with another learning rate;
    on raw vectors the student also learns the teacher's norms.
    """
    return mse_loss(student_BD, teacher_BD)


class TheiaFields(ObjectiveFields):
    theia_cosine_weight: Number = Field(default=0.9, ge=0)
    theia_smooth_l1_weight: Number = Field(default=0.1, ge=0)


def theia(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: TheiaFields) -> torch.Tensor:
    """w_cosine * cosine + w_smooth_l1 * SmoothL1 (mean over b and d), in [0, inf); RAW vectors.

    Theia standardises its targets: set `target: standardised`. Shang et al., "Theia", CoRL 2024.
    """
    length = smooth_l1_loss(student_BD, teacher_BD)
    angle = cosine(student_BD, teacher_BD)
    return fields.theia_cosine_weight * angle + fields.theia_smooth_l1_weight * length


def supervised(student_BE: torch.Tensor, labels_BC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, in nats, of the student's logits against one-hot labels, in [0, inf).

    The student's output is cat([embedding (D), logits (C)]), see trainers.training.wrappers; the
    last C columns are used. Its target is `labels`, so it does not use the teacher.
    """
    return cross_entropy(student_BE[:, -labels_BC.shape[1] :], labels_BC)


# ---- pairs and triplets within the batch ----


class InfonceFields(ObjectiveFields):
    infonce_weight: Number = Field(default=1.0, ge=0)
    temperature: Number = Field(default=0.1, gt=0)
    infonce_positive: Literal["teacher", "student"] = "teacher"  # student: of another view


def infonce(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: InfonceFields
) -> torch.Tensor:
    """w * cross-entropy of S T' / temperature against the diagonal, in nats; UNIT vectors.

    In [0, inf). Row b of the logits compares student b with all B candidates, and the candidate of
    the same image is the right class; the loss is w * ln(B) where all candidates are equal. T is
    the teacher's embeddings or, with `infonce_positive: student`, the student's embeddings of
    another view of each image: then student_BD is cat([view, other view]). van den Oord et al.,
    2018; CLIP-KD, CVPR 2024.
    """
    if fields.infonce_positive == "student":
        student_BD, teacher_BD = student_BD.chunk(2, dim=1)
    logits_BB = normalize(student_BD, dim=1) @ normalize(teacher_BD, dim=1).T / fields.temperature
    same_image_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return fields.infonce_weight * cross_entropy(logits_BB, same_image_B)


def rkd_terms(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two terms of `rkd`, each a scalar in [0, inf), without weights.

    Distance term: SmoothL1 between the pairwise distances of student and teacher, each divided by
    their mean. Angle term: SmoothL1 between the cosines of the angles of all triplets.
    """
    distances, angles = zip(*map(_relations, (student_BD, teacher_BD)), strict=True)
    return smooth_l1_loss(*distances), smooth_l1_loss(*angles)


def _relations(x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances over the mean of the positive ones (B, B); cosines of the angles (B, B, B).

    angle[j, i, k] is that at j between i and k, 0 where two of them coincide. The square root has
    an infinite derivative at 0, so for coincident points it is taken of 1; their gradient is 0.
    """
    difference_BBD = x_BD[None] - x_BD[:, None]
    square_BB = (difference_BBD**2).sum(dim=2)
    positive = square_BB > 0
    distance_BB = torch.where(positive, square_BB, 1).sqrt()
    direction_BBD = difference_BBD / distance_BB[..., None]
    distance_BB = distance_BB * positive
    mean = distance_BB.sum() / positive.sum().clamp_min(1)
    over_mean_BB = distance_BB / torch.where(mean > 0, mean, 1)
    return over_mean_BB, direction_BBD @ direction_BBD.transpose(1, 2)


class RkdFields(ObjectiveFields):
    rkd_distance_weight: Number = Field(default=25.0, ge=0)
    rkd_angle_weight: Number = Field(default=50.0, ge=0)


def rkd(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: RkdFields) -> torch.Tensor:
    """w_distance * distance term + w_angle * angle term, in [0, inf); RAW vectors, scale-invariant.

    Means are over all pairs and triplets, those of a point with itself included, as in its
    authors' code. Memory: B^2 D + B^3 numbers. Park et al., "Relational Knowledge Distillation",
    CVPR 2019.
    """
    distance, angle = rkd_terms(student_BD, teacher_BD)
    return fields.rkd_distance_weight * distance + fields.rkd_angle_weight * angle


class SpFields(ObjectiveFields):
    sp_weight: Number = Field(default=1.0, ge=0)


def sp(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: SpFields) -> torch.Tensor:
    """w * || rownorm(S S') - rownorm(T T') ||_F^2 / B^2, in [0, 4 w / B]; RAW vectors.

    rownorm divides each row of a (B, B) matrix of inner products by its length. Tung & Mori,
    "Similarity-Preserving Knowledge Distillation", ICCV 2019.
    """
    student_BB = normalize(student_BD @ student_BD.T, dim=1)
    teacher_BB = normalize(teacher_BD @ teacher_BD.T, dim=1)
    return fields.sp_weight * ((student_BB - teacher_BB) ** 2).mean()


# ---- the student's embeddings only ----


def vicreg_terms(student_BD: torch.Tensor, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The two terms of `vicreg`, each a scalar in [0, inf), without weights.

    Variance term: mean_d relu(gamma - sqrt(var_d + 1e-4)). Covariance term: sum of the squared
    covariances of all pairs of different dimensions, divided by D. Both with 1 / (B - 1).
    """
    centred_BD = student_BD - student_BD.mean(dim=0)
    covariance_DD = centred_BD.T @ centred_BD / (len(student_BD) - 1)
    variance_D = covariance_DD.diagonal()
    spread = relu(gamma - (variance_D + 1e-4).sqrt()).mean()
    return spread, ((covariance_DD**2).sum() - (variance_D**2).sum()) / len(variance_D)


class VicregFields(ObjectiveFields):
    vicreg_variance_weight: Number = Field(default=25.0, ge=0)
    vicreg_covariance_weight: Number = Field(default=1.0, ge=0)
    vicreg_gamma: Number | None = Field(default=None, gt=0)  # None: 1, on unit vectors 1 / sqrt(D)
    vicreg_vectors: Literal["raw", "unit"] = "raw"


def vicreg(
    student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: VicregFields
) -> torch.Tensor:
    """w_variance * variance term + w_covariance * covariance term, in [0, inf); see vicreg_terms.

    On RAW vectors with gamma 1, or with `vicreg_vectors: unit` on UNIT vectors with gamma
    1 / sqrt(D), the largest standard deviation that all of their D dimensions can have at once.
    Bardes et al., ICLR 2022.
    """
    unit = fields.vicreg_vectors == "unit"
    x_BD = normalize(student_BD, dim=1) if unit else student_BD
    gamma = fields.vicreg_gamma
    if gamma is None:
        gamma = x_BD.shape[1] ** -0.5 if unit else 1.0
    spread, covariance = vicreg_terms(x_BD, gamma)
    return fields.vicreg_variance_weight * spread + fields.vicreg_covariance_weight * covariance


class KoleoFields(ObjectiveFields):
    koleo_weight: Number = Field(default=0.1, ge=0)


def koleo(student_BD: torch.Tensor, teacher_BD: torch.Tensor, fields: KoleoFields) -> torch.Tensor:
    """- w * mean_i ln || z_i - nearest z_j ||, in [-w ln 2, inf); UNIT vectors.

    Minimising it spreads the embeddings. 1e-8 is added to differences and distance, as DINOv2
    does, so that coincident points have a large but finite gradient. Sablayrolles et al., ICLR
    2019; DINOv2, 2023.
    """
    z_BD = normalize(student_BD, dim=1, eps=1e-8)
    with torch.no_grad():
        cosine_BB = z_BD @ z_BD.T
        cosine_BB.fill_diagonal_(-2)
        nearest_B = cosine_BB.argmax(dim=1)
    spread = -(pairwise_distance(z_BD, z_BD[nearest_B], eps=1e-8) + 1e-8).log().mean()
    return fields.koleo_weight * spread


# ---- by name ----

OBJECTIVES = Objectives(
    "objective",
    {
        "cosine": Objective(cosine, aligns=lambda fields: True),
        "mse": Objective(mse, aligns=lambda fields: True),
        "theia": Objective(
            theia,
            TheiaFields,
            aligns=lambda f: f.theia_cosine_weight > 0 or f.theia_smooth_l1_weight > 0,
            weights=("theia_cosine_weight", "theia_smooth_l1_weight"),
        ),
        "infonce": Objective(
            infonce,
            InfonceFields,
            second_view=lambda fields: fields.infonce_positive == "student",
            aligns=lambda f: f.infonce_positive == "teacher" and f.infonce_weight > 0,
            weights=("infonce_weight",),
        ),
        "rkd": Objective(rkd, RkdFields, weights=("rkd_distance_weight", "rkd_angle_weight")),
        "sp": Objective(sp, SpFields, weights=("sp_weight",)),
        "vicreg": Objective(
            vicreg, VicregFields, weights=("vicreg_variance_weight", "vicreg_covariance_weight")
        ),
        "koleo": Objective(koleo, KoleoFields, weights=("koleo_weight",)),
        "supervised": Objective(supervised),
    },
)

# A trial's identity is a hash of its fields in their order. Fields of these classes were part of
# every trial before objectives declared fields, so they stay part of every trial, in this order, at
# their defaults where the trial's objective does not have the term. Fields of objectives that were
# added later are part of only those trials that use them: adding one changes no identity of a
# finished trial.
IN_EVERY_TRIAL: tuple[type[ObjectiveFields], ...] = (
    InfonceFields, TheiaFields, RkdFields, SpFields, VicregFields, KoleoFields,
)  # fmt: skip


def make_objective(name: str, fields: Mapping[str, Any]) -> Loss:
    """The loss of a term or a sum of terms: (student_BD, teacher_BD) -> scalar.

    fields: values of the terms' fields; other names are ignored, missing ones have their defaults.
    Raises: ValueError for an unknown term or a value out of its range.
    """
    terms = OBJECTIVES.terms_of(name)
    return terms[0].bind(fields) if len(terms) == 1 else sum_of(terms, fields)


def needs_second_view(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether a term of the objective, with these field values, compares two views of an image."""
    return name != UNTRAINED and any(
        term.needs_second_view(fields) for term in OBJECTIVES.terms_of(name)
    )


def aligns_to_target(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether a term of the objective draws each embedding to the target of the same image."""
    return name != UNTRAINED and any(
        term.aligns_to_target(fields) for term in OBJECTIVES.terms_of(name)
    )


def zero_weights(name: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights of the objective where all of them are 0, and so is its loss; else none."""
    terms = [] if name == UNTRAINED else OBJECTIVES.terms_of(name)
    if any(term.has_loss(fields) for term in terms):
        return ()
    return tuple(weight for term in terms for weight in term.weights)


def field_classes() -> list[type[ObjectiveFields]]:
    """The field classes of all objectives: those in every trial first, then in table order."""
    added = [entry.fields for entry in OBJECTIVES.values() if entry.fields is not None]
    return list(dict.fromkeys([*IN_EVERY_TRIAL, *added]))


def classes_in_trial(name: str) -> list[type[ObjectiveFields]]:
    """The field classes whose fields a trial with this objective has, in order."""
    terms = [] if name == UNTRAINED else OBJECTIVES.terms_of(name)
    used = [term.fields for term in terms if term.fields is not None]
    return list(dict.fromkeys([*IN_EVERY_TRIAL, *used]))


def fields_read(name: str) -> set[str]:
    """Names of the fields that have an effect with this objective."""
    terms = [] if name == UNTRAINED else OBJECTIVES.terms_of(name)
    return {field for term in terms if term.fields for field in term.fields.model_fields}


def canonical_objective(name: str) -> str:
    """Terms in the table's order: `koleo+cosine` -> `cosine+koleo`. Those of plugins come last.

    Raises: ValueError for an unknown or repeated term, or `supervised` in a sum.
    """
    if name == UNTRAINED:
        return name
    terms = name.split("+")
    for term in terms:
        _ = OBJECTIVES[term]
    if len(set(terms)) < len(terms):
        raise ValueError(
            f"objective: `{name}` has a term twice; name it once and raise its weight instead"
        )
    if "supervised" in terms and len(terms) > 1:
        raise ValueError(
            f"objective: `{name}`: `supervised` learns labels, not the teacher; it stands alone"
        )
    # Plugins may be imported in any order, so their terms are ordered by the plugins' names.
    order = list(OBJECTIVES)
    return "+".join(
        sorted(terms, key=lambda term: (OBJECTIVES.plugins.get(term, ""), order.index(term)))
    )
