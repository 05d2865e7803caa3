"""PROBES: what is measured of a student's embeddings, and of its teacher's for reference.

Each file holds one measurement, and all are computed from one FeatureBank. The arithmetic is in
`shards.measures`; a probe calls it, names the values and describes them with units and ranges. To
add one, write a file with a function and its `Probe` (see `trainers.probes.base`), and list it in
PROBES.
"""

from __future__ import annotations

from shards.support.registry import Table
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.infonce import INFONCE
from trainers.probes.intervals import INTERVALS
from trainers.probes.linear import LINEAR
from trainers.probes.neighbours import NEIGHBOURS
from trainers.probes.retained import RETAINED
from trainers.probes.robustness import FREQUENCY, ROBUSTNESS
from trainers.probes.spectrum import SPECTRUM
from trainers.probes.truncated import TRUNCATED
from trainers.probes.zero_shot import ZERO_SHOT

# The order is that of a trial's default `probes`, on which the identities of trials depend.
PROBES: Table[Probe] = Table(
    "probe",
    {
        "spectrum": SPECTRUM,
        "linear": LINEAR,
        "neighbours": NEIGHBOURS,
        "zero_shot": ZERO_SHOT,
        "robustness": ROBUSTNESS,
        "frequency": FREQUENCY,
        "infonce": INFONCE,
        "intervals": INTERVALS,
        "retained": RETAINED,
        "truncated": TRUNCATED,
    },
)


def default_probes() -> tuple[str, ...]:
    """Names of the probes of a trial that sets no `probes`, in the table's order."""
    return tuple(name for name, probe in PROBES.items() if probe.default)


def run_probes(
    names: tuple[str, ...], bank: FeatureBank, prefix: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(metrics, arrays) of the named probes; `prefix` is `test` (student) or `teacher`.

    Each value is called `prefix/name`, with the name that the probe yields.
    Raises: ValueError for an unknown probe, or embeddings that a probe cannot measure.
    """
    metrics: dict[str, float] = {}
    arrays: dict[str, list[float]] = {}
    for probe in names:
        for name, value in PROBES[probe].run(bank):
            if isinstance(value, list):
                arrays[f"{prefix}/{name}"] = value
            else:
                metrics[f"{prefix}/{name}"] = value
    return metrics, arrays
