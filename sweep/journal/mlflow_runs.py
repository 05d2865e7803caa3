"""The trials of a sweep read back from MLflow, where the run folder and the store are out of reach.

MLflow keeps parameters and tags as text and no arrays; see `sweep.journal.metric_rows` for what is
stored under which name.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from shards.support.command import without_password
from sweep.environment import set_defaults
from sweep.journal.tracking import ERROR, TRIAL
from trainers.canonical import trial_fields

PAGE = 1000  # runs of one request
HELD = re.compile(r"(train|curve)/(.+)")  # metrics with a history


@dataclass(frozen=True)
class TrackedTrial:
    """One trial as MLflow has it.

    status: MLflow's, such as FINISHED. config: its fields. tags: see `metric_rows.tags_of`, values
    as numbers where they are numbers. curves: {step: {name: value}}.
    """

    trial: str
    status: str
    error: str | None
    started_ms: int | None
    ended_ms: int | None
    config: dict[str, Any]
    tags: dict[str, Any]
    metrics: dict[str, float]
    curves: dict[int, dict[str, float]]


def read_server(uri: str) -> list[TrackedTrial]:
    """The trials of one experiment.

    uri: of the server or database; behind a `#` the name of the experiment, or the rest of its
    address in the browser (`http://HOST:5000/#/experiments/1`). Without one, the only experiment
    there is. Raises: ValueError where there is no such experiment, or several to choose from, or
    it has no trials; mlflow.exceptions.MlflowException where the server does not answer.
    """
    set_defaults()  # before MLflow is imported: no telemetry
    from mlflow.tracking import MlflowClient

    address, _, chosen = uri.partition("#")
    client: Any = MlflowClient(address.rstrip("/") if address.startswith("http") else address)
    experiment = _experiment(client, uri, chosen)
    found: list[TrackedTrial] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], f"tags.`{TRIAL}` != ''", 1, PAGE, None, token)
        found += [_trial(client, run) for run in page]
        token = page.token
        if not token:
            break
    if not found:
        shown = without_password(uri)
        raise ValueError(
            f"{shown}: no trials in experiment {experiment}; expected those of a sweep"
        )
    return found


def _experiment(client: Any, uri: str, chosen: str) -> str:
    """The identity of the experiment that is meant."""
    by_number = re.match(r"/?experiments/(\d+)", chosen)
    every = list(client.search_experiments())
    if by_number:
        found = [e for e in every if e.experiment_id == by_number[1]]
    else:
        # MLflow makes an empty experiment `Default` by itself.
        found = [e for e in every if e.name == chosen or (not chosen and e.name != "Default")]
    if len(found) != 1:
        names = ", ".join(sorted(f"`{e.name}`" for e in every if e.name != "Default")) or "none"
        shown = without_password(uri)
        raise ValueError(f"{shown}: expected one experiment behind a `#`, URI#NAME; found: {names}")
    return str(found[0].experiment_id)


def _trial(client: Any, run: Any) -> TrackedTrial:
    curves: dict[int, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    for name, value in run.data.metrics.items():
        held = HELD.fullmatch(name)
        if held is None:
            metrics[name] = value
            continue
        for point in client.get_metric_history(run.info.run_id, name):
            curves.setdefault(point.step, {})[held[2]] = point.value
    tags = {name: _value(text) for name, text in run.data.tags.items()}
    return TrackedTrial(
        trial=run.data.tags[TRIAL],
        status=run.info.status,
        error=run.data.tags.get(ERROR),
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
        config=_config(run.data.params),
        tags=tags,
        metrics=metrics,
        curves=dict(sorted(curves.items())),
    )


def _config(params: dict[str, str]) -> dict[str, Any]:
    """Fields of a trial from their text: a field that is always text stays as it is."""
    known = trial_fields()
    text = {name for name, field in known.items() if field.annotation is str}
    return {name: v if name in text else _value(v) for name, v in params.items()}


def _value(text: str) -> Any:
    """The number, list, truth value or None that was written with `str`; other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
