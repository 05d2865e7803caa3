"""From events of the journal to what MLflow records: metrics at steps, parameters and tags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from shards.teachers import has_random_weights
from sweep.journal.events import (
    EpochEvent,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
    StoppedEvent,
)
from trainers.config.schema import PLUGINS
from trainers.results.record import TrialResult

CUT = " ..."  # the end of a parameter that is longer than MLflow takes
EARLIER = 500  # characters at which earlier versions cut parameters, without a sign of it
RANDOM_WEIGHTS = "teacher.random_weights"
COMMIT = "mlflow.source.git.commit"  # MLflow shows it as the run's source version
SECONDS = "trial_seconds"  # the tag of `ResultEvent.seconds`
TEACHER = "teacher"


# ---- metrics ----


def metrics_of(event: Event, late: bool = False) -> Iterator[Any]:
    """The metrics of one event, each at a step.

    Final values are at step 0, where MLflow draws bars of them. Teacher values are the sweep's own,
    see `reference_of`. In journals of earlier versions, which name no result's file, both are
    the trial's, at its last step, so that an upload that goes on makes no second row.

    Observations come with the epoch at whose end they were made, and once more with the result: the
    same values at the same time are one row in MLflow. Those between two epochs, which only the
    result has, get its time. late: whether all get it, as in earlier versions, which sent them with
    the result alone.
    """
    if isinstance(event, EpochEvent):
        yield from _metrics(event.values, event.step, event.time_ms, "train/")
        if event.observed and not late:
            values = event.observed | {"epoch": event.values["epoch"]}
            yield from _metrics(values, event.step, event.time_ms, "curve/")
    elif isinstance(event, ProbeEvent):
        values = event.result.values
        own = values.metrics if event.step == 0 else values.metrics | values.teacher
        yield from _metrics(own, event.step, event.time_ms)
    elif isinstance(event, ResultEvent):
        result = event.record
        if event.result:
            yield from _metrics(result.metrics | _sizes(result), 0, event.time_ms)
        else:
            values = result.metrics | result.teacher
            yield from _metrics(values, result.last_step, event.time_ms)
        times = {} if late else {row.step: row.time_ms for row in result.epochs}
        for row in result.observations.rows:
            values = row.values | {"epoch": row.epoch}
            yield from _metrics(values, row.step, times.get(row.step, event.time_ms), "curve/")


def _sizes(result: TrialResult) -> dict[str, float]:
    """Sizes of the student, so that they can be an axis."""
    cost = result.student
    return {
        "student/parameters": cost.total,
        "student/parameters/trunk": cost.trunk,
        "student/parameters/head": cost.head,
        "student/macs": cost.macs,
    }


def _metrics(values: dict[str, float], step: int, time_ms: int, prefix: str = "") -> Iterator[Any]:
    from mlflow.entities import Metric

    for name, value in values.items():
        if math.isfinite(value):
            yield Metric(prefix + name, value, time_ms, step)


@dataclass(frozen=True)
class Reference:
    """Values of a teacher: what they were measured on, and each by name, without `teacher/`."""

    label: str
    values: dict[str, float]


def reference_of(event: ResultEvent) -> Reference | None:
    """The teacher's values of a result; None where there are none or the trial itself has them."""
    result, config = event.record, event.record.config
    if not event.result or not result.teacher:
        return None
    data = result.data
    label = (
        f"{config['teacher']} on {config['dataset']}, {data.train} train and {data.test} test "
        f"images of {data.classes} classes, {data.dim} dimensions, weights "
        f"{result.weights_sha256[:12]}, data seed {config.get('data_seed', 0)}, "
        f"{config.get('test_views', 1)} draws"
    )
    return Reference(label, bare(result.teacher))


def bare(values: dict[str, float]) -> dict[str, float]:
    """Finite teacher values by name, without `teacher/`."""
    prefix = f"{TEACHER}/"
    return {n.removeprefix(prefix): v for n, v in values.items() if math.isfinite(v)}


# ---- parameters, tags, names ----


def config_of(event: Event) -> dict[str, Any] | None:
    """The trial's config, where the event has one."""
    if isinstance(event, StartEvent | FailedEvent | StoppedEvent):
        return event.config
    return event.record.config if isinstance(event, ResultEvent) else None


def params_of(config: dict[str, Any]) -> dict[str, str]:
    """Every field as one flat parameter; the entries of a list are separated by `, `.

    What is longer than MLflow takes is cut, and ends with CUT.
    """
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    texts = {name: _text(value) for name, value in config.items()}
    long = {name for name, text in texts.items() if len(text) > MAX_PARAM_VAL_LENGTH}
    return texts | {name: texts[name][: MAX_PARAM_VAL_LENGTH - len(CUT)] + CUT for name in long}


def is_cut(text: str) -> bool:
    """Whether a parameter in MLflow may be the beginning of its value only."""
    return text.endswith(CUT) or len(text) == EARLIER


def tag_text(value: object) -> str:
    """As much of a value as MLflow takes in a tag."""
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    return str(value)[:MAX_TAG_VAL_LENGTH]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(entry) for entry in cast("list[Any]", value))
    return str(value)


def name_of(config: dict[str, Any]) -> str:
    """`s0 width:1 clean`: the seed comes first, since MLflow cuts long names at their end."""
    parts = [f"s{config.get('seed')}", config.get("student"), config.get("arm")]
    objective = config.get("objective")
    parts += [objective] if objective not in (None, "cosine") else []
    return " ".join(map(str, parts))


def tags_of(event: Event) -> dict[str, str]:
    """What runs are grouped and found by.

    Seed, arm and capacity; versions of probes; commit, shards, seconds, cost, data and environment
    of a result; hashes of the plugins that the trial uses; whether a teacher is random.
    """
    tags: dict[str, object] = {}
    config = config_of(event)
    if config is not None:
        tags |= {name: config[name] for name in ("seed", "arm") if name in config}
        tags |= {"capacity": config.get("student")}
        for spec in config.get(PLUGINS, ()):
            module, _, digest = spec.partition("@")
            tags[f"plugin.{module}"] = digest
        if has_random_weights(str(config.get("teacher"))):
            tags[RANDOM_WEIGHTS] = "true"
    if isinstance(event, ResultEvent):
        tags |= _result_tags(event.record)
        tags |= {"shards": event.record.source, "weights_sha256": event.record.weights_sha256}
        tags |= {"bank": event.bank, "commit": event.commit, COMMIT: event.commit}
        tags |= {} if event.seconds is None else {SECONDS: event.seconds}
    for probe, version in _versions(event).items():
        tags[f"probe.{probe}.version"] = version
    return {name: tag_text(value) for name, value in tags.items() if value != ""}


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
