"""What an objective is: a loss, the fields that it adds to a trial, and how terms are summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import field_validator

from shards.support.registry import Table
from shards.support.schema import StrictModel, validated
from trainers.config.types import without_minus_zero

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (student_BD, teacher_BD) -> scalar


class ObjectiveFields(StrictModel):
    """Base of the fields that an objective adds to a trial: each with a default and a range.

    A field is set by its name in a trial's YAML file, in a grid or with `--set`, next to the
    fields of TrialConfig, so its name should start with the objective's name.
    """

    @field_validator("*")
    @classmethod
    def _one_zero(cls, value: Any) -> Any:
        return without_minus_zero(value)


@dataclass(frozen=True)
class Objective:
    """One entry of OBJECTIVES.

    Attributes:
        function: (student_BD, teacher_BD) -> scalar loss, lower is better. With `fields` it takes
            an instance of that class as a third argument, and applies the weights in it.
        fields: the class of its fields, None for an objective without fields.
        second_view: whether, with these fields, it compares two views of each image. Then
            student_BD is cat([embedding of one view, of the other]), shape (B, 2 D).
        aligns: whether, with these fields, each student embedding is drawn to the target of the
            same image, axis by axis. An objective on distances or inner products within a batch is
            not: a student that is rotated against its teacher has the same loss.
        weights: the fields that weigh its parts: with all of them at 0 its loss is 0. Without any
            it is taken to have a loss always.
    """

    function: Callable[..., torch.Tensor]
    fields: type[ObjectiveFields] | None = None
    second_view: Callable[[Any], bool] | None = None
    aligns: Callable[[Any], bool] | None = None
    weights: tuple[str, ...] = ()

    def fields_from(self, values: Mapping[str, Any]) -> ObjectiveFields | None:
        """An instance of `fields`; names of other objectives in `values` are ignored.

        Raises: ValueError for a value out of its range.
        """
        if self.fields is None:
            return None
        names = self.fields.model_fields
        return validated(self.fields, {n: values[n] for n in names if n in values})

    def bind(self, values: Mapping[str, Any]) -> Loss:
        """The loss as a function of two arguments. Raises: ValueError as `fields_from`."""
        fields = self.fields_from(values)
        if fields is None:
            return self.function
        return lambda student_BD, teacher_BD: self.function(student_BD, teacher_BD, fields)

    def needs_second_view(self, values: Mapping[str, Any]) -> bool:
        """Whether it compares two views of each image with these values of its fields."""
        return self.second_view is not None and self.second_view(self.fields_from(values))

    def aligns_to_target(self, values: Mapping[str, Any]) -> bool:
        """Whether it draws each embedding to its target with these values of its fields."""
        return self.aligns is not None and self.aligns(self.fields_from(values))

    def has_loss(self, values: Mapping[str, Any]) -> bool:
        """Whether, with these values of its fields, a part of its loss has a weight."""
        fields = self.fields_from(values)
        return not self.weights or any(getattr(fields, name) for name in self.weights)


def sum_of(terms: list[Objective], values: Mapping[str, Any]) -> Loss:
    """The sum of the losses of `terms`, each with its fields from `values`."""
    losses = [(term.bind(values), term.second_view is not None) for term in terms]

    def total(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
        # A term that can take a second view gets all columns, the others those of the first view.
        # The order in which autograd adds the terms' gradients depends on this, so changing it
        # would change the last bits of every trained student.
        first_BD = student_BD[:, : teacher_BD.shape[1]]
        parts = [loss(student_BD if whole else first_BD, teacher_BD) for loss, whole in losses]
        return torch.stack(parts).sum()

    return total


class Objectives(Table[Objective]):
    """Terms by name. A sum `a+b` is not an entry of the table; `terms_of` looks up its terms."""

    def terms_of(self, name: str) -> list[Objective]:
        """The entries of a sum, in order. Raises: ValueError for an unknown term."""
        return [self[term] for term in name.split("+")]
