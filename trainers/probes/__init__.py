"""PROBES: one file, one measurement, all taken from one FeatureBank.

A probe yields (name, value): a number becomes a metric, a list an array of the record. The same
probes measure the student and, as reference, the teacher. Another probe is a function in a file
of its own and an entry here. Its version goes up whenever a value it gives would change, and with
that of any probe whose arithmetic it uses: results of different versions are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shards.support.registry import Table
from trainers.probes.features import FeatureBank
from trainers.probes.frequency import frequency
from trainers.probes.infonce import infonce
from trainers.probes.intervals import intervals
from trainers.probes.linear import linear
from trainers.probes.neighbours import neighbours
from trainers.probes.retained import retained
from trainers.probes.robustness import robustness
from trainers.probes.spectrum import spectrum
from trainers.probes.truncated import truncated
from trainers.probes.zero_shot import zero_shot

Value = float | list[float]


@dataclass(frozen=True)
class Probe:
    """`own`: this probe's own version; `uses`: names of the probes whose arithmetic it takes."""

    run: Callable[[FeatureBank], Iterator[tuple[str, Value]]]
    own: int = 1
    uses: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        return self.own + sum(PROBES[name].version for name in self.uses)


PROBES: Table[Probe] = Table(
    "probe",
    {
        "spectrum": Probe(spectrum, own=2),
        "linear": Probe(linear, own=3),
        "neighbours": Probe(neighbours),
        "zero_shot": Probe(zero_shot),
        "robustness": Probe(robustness, own=3, uses=("linear", "spectrum")),
        "frequency": Probe(frequency, own=2, uses=("robustness",)),
        "infonce": Probe(infonce, own=2),
        "intervals": Probe(
            intervals, own=2, uses=("linear", "spectrum", "neighbours", "zero_shot")
        ),
        "retained": Probe(retained, uses=("spectrum",)),
        "truncated": Probe(truncated, uses=("linear", "spectrum")),
    },
)


def run_probes(
    names: tuple[str, ...], bank: FeatureBank, prefix: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Metrics and arrays, each name prefixed: `test/` for a student, `teacher/` for its teacher."""
    metrics: dict[str, float] = {}
    arrays: dict[str, list[float]] = {}
    for probe in names:
        for name, value in PROBES[probe].run(bank):
            if isinstance(value, list):
                arrays[f"{prefix}/{name}"] = value
            else:
                metrics[f"{prefix}/{name}"] = value
    return metrics, arrays
