"""The part of a bank's manifest that holds its teachers' figures under corruption."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from shards.measures.corruption import NAMES, Figures
from shards.support.schema import StrictModel


class TeacherRobustness(StrictModel):
    """Figures of the teachers under corruption, in the order of the bank's teachers.

    draws: how many draws of each random corruption the figures are means of.
    clean: accuracy of each teacher's classifier on the clean test images.
    teachers: {arm: {figure: value}} of each; see `shards.measures.corruption.figures_of`.
    order: in which the train samples were when the last short batch was dropped, see
        `shards.bank.order`; `file`, which older banks have, is left out of the JSON.
    """

    draws: int = Field(ge=1)
    clean: tuple[float, ...]
    teachers: tuple[dict[str, Figures], ...]
    order: Literal["file", "keyed"] = "file"

    @model_serializer(mode="wrap")
    def _without_file_order(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {name: v for name, v in fields.items() if name != "order" or v != "file"}

    @field_validator("teachers")
    @classmethod
    def _valid(cls, teachers: tuple[dict[str, Figures], ...]) -> tuple[dict[str, Figures], ...]:
        for teacher in teachers:
            for arm, figures in teacher.items():
                unknown = set(figures) - set(NAMES)
                if unknown or not all(map(math.isfinite, figures.values())):
                    raise ValueError(f"figures of arm `{arm}` are not {', '.join(NAMES)}, finite")
                # 1.01: embeddings in float32 have norms that differ from 1 by rounding.
                if not 0 <= figures.get("accuracy", 0) <= 1 or abs(figures.get("cosine", 0)) > 1.01:
                    raise ValueError(f"figures of arm `{arm}` are out of range: {figures}")
        return teachers

    @property
    def arms(self) -> tuple[str, ...]:
        """Specs of the arms that were measured, in order."""
        return tuple(self.teachers[0]) if self.teachers else ()
