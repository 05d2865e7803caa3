"""Base class of the corruptions: a severity, and random parameters that are seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shards.arms.ops import Op


@dataclass(frozen=True)
class Corruption(Op):
    """An operation on uint8 images at one of five severities, 1 (mild) to 5 (strong).

    `constants`: the published constants, one entry per severity. `columns`: seeds of the random
    numbers that each image needs, unless a subclass overrides `draw`.
    """

    severity: int = 3
    constants: ClassVar[tuple[Any, ...]] = ()

    @property
    def constant(self) -> Any:
        """The entry of `constants` for this severity."""
        return self.constants[self.severity - 1]
