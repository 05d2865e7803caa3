"""The trials of a sweep read back from MLflow, where the run folder and the store are out of reach.

MLflow keeps parameters and tags as text and no arrays; see `sweep.journal.metric_rows` for what is
stored under which name. A teacher's values are read from the sweep's own run.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any, get_origin

from shards.support.command import without_password
from sweep.environment import set_defaults
from sweep.journal.metric_rows import SECONDS, TEACHER, is_cut
from sweep.journal.server import ERROR, PARENT, TRIAL
from sweep.journal.tracking import REFERENCE
from trainers.canonical import trial_fields

PAGE = 1000  # runs of one request
CURVE = re.compile(r"(train|curve)/(.+)")  # metrics with a history
SIZES = "student/"  # metrics that tags hold as well
NUMBERS = ("student.", "data.")  # groups of tags with numbers


@dataclass(frozen=True)
class TrackedTrial:
    """One trial as MLflow has it.

    status: MLflow's, such as FINISHED. config: its fields, without those in `cut`, of which MLflow
    may have the beginning only. tags: see `metric_rows.tags_of`; those of the groups NUMBERS are
    numbers. seconds: of a finished trial. metrics: final values of the trial and of its teacher.
    curves: {step: {name: value}}.
    """

    trial: str
    status: str
    error: str | None
    started_ms: int | None
    ended_ms: int | None
    seconds: float | None
    config: dict[str, Any]
    cut: tuple[str, ...]
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
    sweeps: dict[str, dict[str, float]] = {}
    token: str | None = None
    while True:
        page = client.search_runs([experiment], f"tags.`{TRIAL}` != ''", 1, PAGE, None, token)
        found += [_trial(client, run, sweeps) for run in page]
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


def _trial(client: Any, run: Any, sweeps: dict[str, dict[str, float]]) -> TrackedTrial:
    """sweeps: {run of a sweep: its metrics}, filled as they are needed."""
    curves: dict[int, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    for name, value in run.data.metrics.items():
        curve = CURVE.fullmatch(name)
        if curve is None:
            metrics |= {} if name.startswith(SIZES) else {name: value}
            continue
        for point in client.get_metric_history(run.info.run_id, name):
            curves.setdefault(point.step, {})[curve[2]] = point.value
    tags = run.data.tags
    if REFERENCE in tags:
        sweep = tags[PARENT]
        if sweep not in sweeps:
            sweeps[sweep] = client.get_run(sweep).data.metrics
        metrics |= _teacher(tags[REFERENCE], sweeps[sweep])
    return TrackedTrial(
        trial=tags[TRIAL],
        status=run.info.status,
        error=tags.get(ERROR),
        started_ms=run.info.start_time,
        ended_ms=run.info.end_time,
        seconds=_seconds(run),
        config=_config({n: text for n, text in run.data.params.items() if not is_cut(text)}),
        cut=tuple(name for name, text in run.data.params.items() if is_cut(text)),
        tags={n: _value(text) if n.startswith(NUMBERS) else text for n, text in tags.items()},
        metrics=metrics,
        curves=dict(sorted(curves.items())),
    )


def _seconds(run: Any) -> float | None:
    """Of all attempts of a finished trial; of earlier versions, from its start to its end."""
    if run.info.status != "FINISHED":
        return None
    if SECONDS in run.data.tags:
        return float(run.data.tags[SECONDS])
    start, end = run.info.start_time, run.info.end_time
    return None if start is None or end is None else float(end - start) / 1000


def _teacher(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Values of the teacher `name` (`teacher`, `teacher 2`, ...) under the names of results."""
    prefix = f"{name}/"
    return {
        f"{TEACHER}/{metric.removeprefix(prefix)}": value
        for metric, value in metrics.items()
        if metric.startswith(prefix)
    }


def _config(params: dict[str, str]) -> dict[str, Any]:
    """Fields of a trial from their text, see `metric_rows.params_of`."""
    known = trial_fields()
    config: dict[str, Any] = {}
    for name, text in params.items():
        kind = known[name].annotation if name in known else None
        if kind is str:
            config[name] = text
        elif get_origin(kind) is tuple and not text.startswith("["):  # as earlier versions wrote it
            config[name] = text.split(", ") if text else []
        else:
            config[name] = _value(text)
    return config


def _value(text: str) -> Any:
    """The number, list, truth value or None that was written with `str`; other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
