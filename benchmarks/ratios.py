"""A benchmark's results as ratios: printed, and kept where `make bench` asks for them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = "BENCHMARK_RESULTS"  # environment variable: the JSON file that receives the ratios


@dataclass(frozen=True)
class Ratio:
    """One measured ratio.

    what: what is compared with what. value: the ratio. wanted: its limit, None where none is set.
    at_least: whether the limit is the least or the largest acceptable value. measured: the numbers
    behind it, with their units, as text.
    """

    what: str
    value: float
    wanted: float | None = None
    at_least: bool = True
    measured: str = ""

    @property
    def reached(self) -> bool:
        if self.wanted is None:
            return True
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    def __str__(self) -> str:
        limit = ""
        if self.wanted is not None:
            kind = "at least" if self.at_least else "at most"
            limit = f" ({kind} {self.wanted:g}{'' if self.reached else ': NOT REACHED'})"
        return f"{self.what}: {self.value:.3g}{limit}"


def finish(ratios: Sequence[Ratio], also: bool = True) -> int:
    """Print the ratios and store them if asked to; the exit status of the benchmark.

    also: further conditions of the benchmark, all met.
    """
    for ratio in ratios:
        print(ratio)
    if RESULTS in os.environ:
        rows = [asdict(ratio) for ratio in ratios]
        Path(os.environ[RESULTS]).write_text(json.dumps(rows, indent=1) + "\n")
    return int(not (also and all(ratio.reached for ratio in ratios)))
