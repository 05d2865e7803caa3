"""How to look at a sweep in MLflow: the address of its runs, and a command that serves them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from shards.support.command import without_password


def compare_lines(uri: str, experiment: str) -> list[str]:
    """How to look at the sweep in MLflow: a command where there is no server, and the address."""
    address = without_password(experiment_address(uri, experiment))
    if uri.startswith("http"):
        return [address]
    return [mlflow_command(uri), f"then open {address}"]


def mlflow_command(uri: str) -> str:
    """The command that starts the MLflow UI on a database, to be pasted into a shell.

    A password is shown as `***`, because what a sweep prints ends up in logs.
    """
    beside = Path(sys.executable).parent / "mlflow"
    program = shlex.quote(str(beside) if beside.exists() else "mlflow")
    store = shlex.quote(without_password(uri))
    return f"MLFLOW_DISABLE_TELEMETRY=true {program} ui --backend-store-uri {store}"


def experiment_address(uri: str, experiment: str) -> str:
    """The address of an experiment's table of runs; `mlflow ui` alone opens another page."""
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else ""
    return f"{server}/{page}"
