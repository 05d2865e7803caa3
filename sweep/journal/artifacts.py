"""Files of a trial for its run in MLflow, and the bank that it read as a data set of the run.

config.yaml, environment.json, spectrum.png, student/student.safetensors, student/student.json
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from shards.support import storage
from sweep.journal.events import ResultEvent
from sweep.journal.mlflow_errors import reason
from trainers.results.folder import STUDENT, read_result
from trainers.results.record import TrialResult

DIGEST = 36  # characters that MLflow takes


class ArtifactError(Exception):
    """A run's files could not be stored; its values are."""


def store_artifacts(client: Any, run_id: str, event: ResultEvent, store: str) -> None:
    """Store the files of a finished trial in its run. Those of a trial that is gone are left out.

    client: of MLflow. store: of the run, see `ResultEvent.result`.
    Raises: ArtifactError, in one line.
    """
    try:
        file = storage.join(store, event.result)
        if not storage.exists(file):
            return
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), read_result(file), file.rpartition("/")[0])
            client.log_artifacts(run_id, folder)
    except Exception as error:  # the artifact store may raise whatever its client does
        raise ArtifactError(f"its artifacts were not stored: {reason(error)}") from None


def _fill(folder: Path, result: TrialResult, trial: str) -> None:
    (folder / "config.yaml").write_text(_yaml(result.config), encoding="utf-8")
    entries = json.dumps(result.environment.entries(), indent=1)
    (folder / "environment.json").write_text(entries + "\n", encoding="utf-8")
    picture = spectrum_picture(result)
    if picture:
        (folder / "spectrum.png").write_bytes(picture)
    student = storage.join(trial, STUDENT)
    for name in storage.names(student):
        (folder / STUDENT).mkdir(exist_ok=True)
        (folder / STUDENT / name).write_bytes(storage.read(storage.join(student, name)))


def _yaml(config: dict[str, Any]) -> str:
    """The fields as a file that `trainers.trial` takes: JSON values are YAML."""
    given = {name: value for name, value in config.items() if value is not None}
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in given.items())


def spectrum_picture(result: TrialResult) -> bytes:
    """Shares of variance by principal component, of student and teacher; b"" without a spectrum."""
    own, teacher = (result.arrays.get(f"{who}/spectrum", []) for who in ("test", "teacher"))
    if not own:
        return b""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, NullLocator

    # Margins that are given, and labels without mathematics or minor ticks: to find and to set
    # them takes longer than all else that is uploaded for a trial.
    figure: Any = Figure(figsize=(4.8, 3.2))
    axes = figure.add_axes((0.19, 0.15, 0.78, 0.82))
    for values, label in ((own, "student"), (teacher, "teacher")):
        shares = [value for value in values if value > 0]
        axes.loglog(range(1, len(shares) + 1), shares, label=label)
    axes.set(xlabel="principal component", ylabel="share of variance", ylim=(1e-7, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(LogFormatter(labelOnlyBase=True))
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="lower left")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def log_bank(client: Any, run_id: str, event: ResultEvent) -> None:
    """Name the bank that a trial read as the input data set of its run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    result = event.record
    if not event.bank:
        return
    kind = "local" if storage.is_local(event.bank) else storage.scheme_of(event.bank)
    dataset = Dataset(
        name=f"{result.config['dataset']} by {result.config['teacher']}"[:490],
        digest=result.source[:DIGEST],
        source_type=kind,
        source=json.dumps({"uri": event.bank}),
        profile=json.dumps({"num_rows": result.data.train, "dimensions": result.data.dim}),
    )
    tags = [InputTag("mlflow.data.context", "training")]
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])
