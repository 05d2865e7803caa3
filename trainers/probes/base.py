"""Probe: one entry of PROBES, a measurement with its version and the description of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shards.support.metric_names import metric_name_error
from trainers.probes.features import FeatureBank

Value = float | list[float]


@dataclass(frozen=True)
class Probe:
    """A measurement that is taken from a FeatureBank, of a student and of its teacher alike.

    run: yields (name, value); a number becomes a metric, a list an array of the trial's result.
    revision: goes up whenever a value that `run` itself computes would change.
    uses: probes whose arithmetic this one calls.
    class_images: train images that at least one class must have, for a probe that holds some out.
    default: whether a trial that sets no `probes` is measured by it. Changing this changes the
        identity of every such trial.
    metrics: what it yields, for the glossary, in two lines a metric (`trainers.probes.glossary`):

        NAME | UNIT | RANGE | higher, lower or neither is better
            what it is, in one line
    """

    run: Callable[[FeatureBank], Iterator[tuple[str, Value]]]
    revision: int = 1
    uses: tuple[Probe, ...] = ()
    class_images: int = 1
    default: bool = False
    metrics: str = ""

    def __post_init__(self) -> None:
        """Raises: ValueError for a described metric whose name MLflow would refuse."""
        for line in self.metrics.splitlines():
            if "|" in line and not line.startswith(" "):
                probe = getattr(self.run, "__name__", "of unknown name")
                check_metric_name(probe, line.partition("|")[0].strip())

    @property
    def version(self) -> int:
        """Its revision plus the versions of all probes it uses, so it rises when any of them does.

        Values of different versions are never compared or mixed.
        """
        return self.revision + sum(probe.version for probe in self.uses)


def check_metric_name(probe: str, name: str) -> None:
    """Raises: ValueError naming the probe, for a name of a metric that MLflow would refuse."""
    error = metric_name_error(name)
    if error is not None:
        raise ValueError(f"probe `{probe}`: metric name `{name}` {error}")
