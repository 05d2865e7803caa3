"""What a trial occupies on the machines, as Ray places it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STRATEGIES = {"pack": "PACK", "spread": "SPREAD", "strict_pack": "STRICT_PACK"}


@dataclass(frozen=True)
class Placement:
    """What the ranks of a trial occupy.

    Attributes:
        ranks: how many processes train the trial.
        cpus: CPU cores of each rank.
        gpus: GPUs of each rank; below 1, several trials share one.
        placement: `pack` on as few nodes as possible, `spread` over as many as possible,
            `strict_pack` on one node.
    """

    ranks: int
    cpus: float
    gpus: float
    placement: str = "pack"

    @classmethod
    def of(cls, config: dict[str, Any]) -> Placement:
        """The placement in a Tune config, which has these fields among others."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__})

    @property
    def rank(self) -> dict[str, float]:
        """What one rank occupies."""
        return {"CPU": self.cpus, "GPU": self.gpus}

    @property
    def total(self) -> dict[str, float]:
        """What all ranks occupy together."""
        return {kind: amount * self.ranks for kind, amount in self.rank.items()}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Bundles of a placement group: the first is of Tune's actor, the others of the ranks.

        The actor of one rank trains itself. That of several only waits for their actors; its empty
        bundle takes nothing, and Ray starts it on the node of the first rank.
        """
        return [self.rank] if self.ranks == 1 else [{}] + [self.rank] * self.ranks
