"""What corruptions share: a severity, and draws that are seeds of integer streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shards.arms.ops import Op


@dataclass(frozen=True)
class Corruption(Op):
    """An operation on uint8 pixels at one of five severities, 1 (mild) to 5.

    `constants` are the published ones; `columns` are seeds, whole words of the generator.
    """

    severity: int = 3
    constants: ClassVar[tuple[Any, ...]] = ()

    @property
    def constant(self) -> Any:
        return self.constants[self.severity - 1]
