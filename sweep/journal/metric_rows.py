"""From events of the journal to what MLflow records: metrics at steps, parameters and tags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from shards.teachers import has_random_weights
from sweep.journal.events import (
    EpochEvent,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
)
from trainers.results.record import TrialResult

VALUE_LENGTH = 500  # of a parameter or tag; longer ones are cut, MLflow takes no more everywhere
RANDOM_WEIGHTS = "teacher.random_weights"


def metrics_of(event: Event) -> Iterator[Any]:
    """The metrics of one event, each at a step.

    Observations have no time of their own. They get the result's, which is the same when a line
    is sent again.
    """
    if isinstance(event, EpochEvent):
        yield from _metrics(event.values, event.step, event.time_ms, "train/")
    elif isinstance(event, ProbeEvent):
        values = event.result.values
        yield from _metrics(values.metrics | values.teacher, event.step, event.time_ms)
    elif isinstance(event, ResultEvent):
        result = event.record
        yield from _metrics(result.metrics | result.teacher, result.last_step, event.time_ms)
        for row in result.observations.rows:
            values = row.values | {"epoch": row.epoch}
            yield from _metrics(values, row.step, event.time_ms, "curve/")


def _metrics(values: dict[str, float], step: int, time_ms: int, prefix: str = "") -> Iterator[Any]:
    from mlflow.entities import Metric

    for name, value in values.items():
        if math.isfinite(value):
            yield Metric(prefix + name, value, time_ms, step)


def config_of(event: Event) -> dict[str, Any] | None:
    """The trial's config, where the event has one."""
    if isinstance(event, StartEvent | FailedEvent):
        return event.config
    return event.record.config if isinstance(event, ResultEvent) else None


def params_of(config: dict[str, Any]) -> dict[str, str]:
    return {name: str(value)[:VALUE_LENGTH] for name, value in config.items()}


def tags_of(event: Event) -> dict[str, str]:
    """Versions of probes; cost, data and environment of a result; whether a teacher is random."""
    tags: dict[str, object] = {}
    if isinstance(event, ResultEvent):
        tags |= _result_tags(event.record)
    config = config_of(event)
    if config is not None and has_random_weights(str(config.get("teacher"))):
        tags[RANDOM_WEIGHTS] = "true"
    for probe, version in _versions(event).items():
        tags[f"probe.{probe}.version"] = version
    return {name: str(value)[:VALUE_LENGTH] for name, value in tags.items()}


def _result_tags(result: TrialResult) -> dict[str, object]:
    """Entries of the result as `group.name`."""
    groups: dict[str, dict[str, Any]] = {
        "student": result.student.model_dump(),
        "data": result.data.model_dump(),
        "environment": result.environment.entries(),
        "teacher": result.embeddings.model_dump() if result.embeddings else {},
    }
    return {f"{group}.{name}": v for group, part in groups.items() for name, v in part.items()}


def _versions(event: Event) -> dict[str, int]:
    """{probe: version} of the values in an event."""
    if isinstance(event, ProbeEvent):
        return {event.result.probe: event.result.values.version}
    return event.record.versions() if isinstance(event, ResultEvent) else {}
