"""STUDENTS: small image encoders, each named by a spec `NAME:ARGUMENT`.

    width:2             the paper's CNN (arXiv 2603.06698) with its channels multiplied by 2
    params:2M           the same CNN, its width solved for a total number of parameters
    timm:resnet18       an untrained timm backbone, pooled, and one linear layer
    teacher_pca:16      no network at all: see trainers.students.teacher_pca

    student = build_student("width:2", embedding_dim=512, image_size=32, seed=0)
    embedding_BD = student(images_BCHW)         # raw, not normalised
    features_BF = student.features(images_BCHW) # the input of the last linear layer

Every student is a `Student`: a `trunk` (the feature extractor) and a `head` (the linear layers
that map to the embedding). A new one is an entry in STUDENTS:

    STUDENTS["flat"] = lambda argument, embedding_dim, image_size: Student(
        nn.Flatten(), nn.Sequential(nn.Linear(3 * image_size**2, embedding_dim))
    )
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shards.support.registry import Table, split_spec
from trainers.config.student_specs import (
    canonical_budget,
    canonical_components,
    canonical_width,
)
from trainers.students.base import Student
from trainers.students.cnn import student_of_budget, student_of_width
from trainers.students.cost import ParameterCount, count_macs, count_parameters, on_meta
from trainers.students.teacher_pca import check_dimensions, has_no_network, no_network
from trainers.students.timm_backbone import timm_student

# (argument, embedding_dim, image_size) -> the student, initialised from torch's global generator.
STUDENTS: Table[Callable[[str, int, int], Student]] = Table(
    "student",
    {
        "width": student_of_width,
        "params": student_of_budget,
        "timm": timm_student,
        "teacher_pca": no_network,
    },
)

# {name: function from an argument to its one spelling}, for arguments with several spellings.
CANONICAL: Table[Callable[[str], str]] = Table(
    "spelling of student",
    {"width": canonical_width, "params": canonical_budget, "teacher_pca": canonical_components},
)


def canonical_student(spec: str) -> str:
    """One spelling for each student: `width:1.0` -> `width:1`, `params:500K` -> `params:0.5M`.

    Trials that differ in spelling alone must have one identity. Raises: ValueError for a name
    that is not in STUDENTS.
    """
    name, argument = split_spec(spec)
    _ = STUDENTS[name]  # refuses an unknown name
    if name not in CANONICAL:
        return spec
    canonical = CANONICAL[name](argument)
    return spec if canonical == argument else f"{name}:{canonical}"


def build_student(
    spec: str, embedding_dim: int, image_size: int, seed: int | None = None
) -> Student:
    """The student named by `spec`, on the CPU, in training mode.

    embedding_dim: D, that of the teacher. image_size: height and width of its input, in pixels.
    seed: with it the weights are a pure function of (spec, embedding_dim, image_size, seed) and
    no global generator is touched. Without it they are drawn from torch's global CPU generator,
    which the caller has seeded.
    Raises: ValueError for an unknown student, or one that cannot have this D or image size.
    """
    if seed is None:
        with torch.device("cpu"):
            return _construct(spec, embedding_dim, image_size)
    _check_whole("seed", seed, 0)
    with (
        torch.random.fork_rng(devices=[]),  # pyright: ignore[reportUnknownMemberType]
        torch.device("cpu"),
    ):
        # Not torch.manual_seed, which would seed the generators of all GPUs as well.
        torch.default_generator.manual_seed(seed)
        return _construct(spec, embedding_dim, image_size)


def build_on_meta(spec: str, embedding_dim: int, image_size: int) -> Student:
    """The student's modules and shapes on the meta device: no memory, no weights are drawn.

    Raises: ValueError as `build_student`.
    """
    with on_meta():
        return _construct(spec, embedding_dim, image_size)


def _construct(spec: str, embedding_dim: int, image_size: int) -> Student:
    _check_whole("embedding_dim", embedding_dim, 1)
    _check_whole("image_size", image_size, 1)
    name, argument = split_spec(spec)
    return STUDENTS[name](argument, embedding_dim, image_size)


def _check_whole(field: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{field}: got {value!r}; expected a whole number of {least} or more")


def __getattr__(name: str) -> Any:
    # `trainers.students.load`, by its name: it reads a trial's result, so it lives above this room.
    if name == "load":
        return importlib.import_module("trainers.results.loaded").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class StudentSummary:
    """Size and cost of a student, as a dry run shows them.

    parameters: of trunk, head and both. macs: multiply-accumulates of one image. channels: of the
    CNN's convolutions, () for other students.
    """

    spec: str
    parameters: ParameterCount
    macs: int
    channels: tuple[int, ...]


def describe(spec: str, embedding_dim: int, image_size: int) -> StudentSummary:
    """Size and cost of a student, from its shapes: no weights are drawn.

    Raises: ValueError as `build_student`.
    """
    if has_no_network(spec):
        check_dimensions(spec, embedding_dim)
        return StudentSummary(spec, ParameterCount(0, 0, 0), 0, ())
    model = build_on_meta(spec, embedding_dim, image_size)
    cost = count_macs(model, image_size)
    return StudentSummary(spec, count_parameters(model), cost, model.channels)
