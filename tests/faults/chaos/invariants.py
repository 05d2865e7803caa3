"""What must hold after a disturbed sweep, compared with one that nothing disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.chaos.disturbed import Disturbed
from tests.sweep.conftest import events
from tests.trainers.small_runs import without_times
from trainers.results.folder import read_result
from trainers.training.checkpoint import Checkpoints, owner_of

INVARIANTS = {
    "I1": "every trial has one result, stored once",
    "I2": "weights and metrics are, byte for byte, those of an undisturbed sweep",
    "I3": "MLflow has one run a trial and one row a (key, step), with the same values",
    "I4": "the newest checkpoint verifies",
    "I5": "no process is left",
    "I6": "an attempt goes on from the newest checkpoint, and trains again what took less than the "
    "time between two of them",
}


@dataclass(frozen=True)
class Control:
    """An undisturbed sweep of the same trials.

    Attributes:
        results: {trial: its result without times}.
        weights: {trial: sha256 of its student}.
        rows: {trial: {(key, step): value} in MLflow}.
    """

    results: dict[str, Any]
    weights: dict[str, str]
    rows: dict[str, dict[tuple[str, int], float]]


def control_of(folder: Path) -> Control:
    """The finished sweep in `folder`, whose mlflow.db is beside its journal."""
    rows: dict[str, dict[tuple[str, int], float]] = {}
    for (_, trial), runs in mlflow_rows(folder / "mlflow.db", "chaos").items():
        (rows[trial],) = ({place: values[0] for place, values in run.items()} for run in runs)
    trials = [path.name for path in (folder / "trials").iterdir()]
    return Control(
        {trial: _result(folder, trial) for trial in trials},
        {trial: _weights(folder, trial) for trial in trials},
        rows,
    )


def broken_checkpoints(sweep: Disturbed, control: Control) -> list[str]:
    """I4: newest visible checkpoints that do not verify, with the reason."""
    broken = []
    for trial, config in sweep.trials.items():
        owner = owner_of(config, control.results[trial].source)
        checkpoints = Checkpoints(str(sweep.folder_of(trial) / "checkpoints"), owner)
        for _ in range(3):  # the trial goes on meanwhile, and may delete the one that is read
            steps = checkpoints.steps()
            try:
                if steps:
                    checkpoints.load(steps[-1])
                break
            except FileNotFoundError:
                continue
            except ValueError as error:
                broken.append(f"I4: trial {trial}: {error}")
                break
    return broken


def violations(sweep: Disturbed, control: Control, database: Path | None) -> list[str]:
    """I1 to I3 of a sweep that has ended: what does not hold, one line each.

    database: of the MLflow server; None where each --out folder has its own mlflow.db.
    """
    folders = sweep.folders()
    found = [f"I1: {line}" for folder in folders for line in _not_once(folder, control)]
    for trial, expected in control.results.items():
        if not (sweep.folder_of(trial) / "result.json").exists():
            found.append(f"I1: trial {trial} has no result")
            continue
        stored = (sweep.folder_of(trial) / "result.json").stat().st_mtime_ns
        if sweep.stored.get(trial, stored) != stored:
            found.append(f"I1: trial {trial}: its result was stored again")
        if _result(sweep.store, trial) != expected:
            found.append(f"I2: trial {trial}: other metrics than the undisturbed one")
        if _weights(sweep.store, trial) != control.weights[trial]:
            found.append(f"I2: trial {trial}: other weights than the undisturbed one")
    for base in [database] if database else [folder / "mlflow.db" for folder in folders]:
        found += [f"I3: {line}" for line in _not_in_mlflow(base, len(folders), control, database)]
    return found


def _not_once(folder: Path, control: Control) -> list[str]:
    """What a journal lacks or has twice."""
    found = []
    results = Counter(event["trial"] for event in events(folder, "result"))
    rows = Counter((event["trial"], event["step"]) for event in events(folder, "epoch"))
    for trial, expected in control.results.items():
        if results[trial] != 1:
            found.append(f"{folder.name}: trial {trial} has {results[trial]} results")
        steps = Counter({step: n for (name, step), n in rows.items() if name == trial})
        if steps != Counter(row.step for row in expected.epochs):
            found.append(f"{folder.name}: trial {trial}: epochs {dict(steps)}")
    return found


def _not_in_mlflow(base: Path, sweeps: int, control: Control, shared: Path | None) -> list[str]:
    found = []
    runs = mlflow_rows(base, "chaos")
    expected = (sweeps if shared else 1) * len(control.rows)
    if len(runs) != expected:
        found.append(f"{base}: {len(runs)} trials, expected {expected}")
    for (_, trial), copies in runs.items():
        if len(copies) != 1:
            found.append(f"{base}: {len(copies)} runs of trial {trial}")
        for run in copies:
            twice = [place for place, values in run.items() if len(values) > 1]
            if twice:
                found.append(f"{base}: trial {trial}: {len(twice)} rows twice, such as {twice[0]}")
            single = {place: values[0] for place, values in run.items()}
            if single != control.rows.get(trial):
                differing = set(single.items()) ^ set(control.rows.get(trial, {}).items())
                found.append(f"{base}: trial {trial}: {len(differing)} rows differ or lack")
    return found


def mlflow_rows(
    base: Path, experiment: str
) -> dict[tuple[str, str], list[dict[tuple[str, int], list[float]]]]:
    """{(parent, trial): for each of its runs {(key, step): values}}, without system metrics."""
    query = (
        "select t.run_uuid, t.value, p.value from tags t "
        "join tags p on p.run_uuid = t.run_uuid and p.key = 'mlflow.parentRunId' "
        "join runs r on r.run_uuid = t.run_uuid "
        "join experiments e on e.experiment_id = r.experiment_id "
        "where t.key = 'sweep.trial' and e.name = ? and r.lifecycle_stage = 'active'"
    )
    found: dict[tuple[str, str], list[dict[tuple[str, int], list[float]]]] = {}
    with contextlib.closing(sqlite3.connect(base)) as database:
        for run, trial, parent in database.execute(query, (experiment,)).fetchall():
            rows: dict[tuple[str, int], list[float]] = {}
            metrics = "select key, step, value from metrics where run_uuid = ?"
            for key, step, value in database.execute(metrics, (run,)):
                if not key.startswith("system/"):
                    rows.setdefault((key, step), []).append(value)
            found.setdefault((parent, trial), []).append(rows)
    return found


def _result(folder: Path, trial: str) -> Any:
    return without_times(read_result(str(folder / "trials" / trial / "result.json")))


def _weights(folder: Path, trial: str) -> str:
    file = folder / "trials" / trial / "student" / "student.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()
