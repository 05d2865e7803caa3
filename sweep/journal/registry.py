"""Finished students as versions of one model in MLflow's registry, on request.

A version is an MLflow model that holds no pickle and no code: safetensors and JSON, loaded by
`trainers.exports.mlflow_loader`. A run that has a version of the name already gets no second one.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from shards.support import storage
from sweep.journal.events import ResultEvent
from sweep.journal.metric_rows import tags_of
from trainers.results.folder import RESULT, STUDENT

MODEL = "model"  # the folder in a run's artifacts
LOADER = "trainers.exports.mlflow_loader"
NAME = re.compile(r"[^\s/:.#'\"%\\][^/:#'\"%\\]*")
ABOUT = ("seed", "arm", "capacity", "commit")  # tags of a trial that its version has too


def check_name(name: str) -> None:
    """Check the name of a registered model.

    Raises: ValueError for one that MLflow, its addresses or its queries do not take.
    """
    if not NAME.fullmatch(name) or name != name.strip():
        raise ValueError(f"--register: `{name}`; expected a name such as `students`, without / : #")


def register_student(client: Any, name: str, run_id: str, event: ResultEvent, store: str) -> bool:
    """Make the student of a finished trial a version of model `name`; whether it is one now.

    client: of MLflow. store: of the run. False for a trial whose folder is gone or whose student
    has no network.
    Raises: what MLflow's client raises; OSError.
    """
    folder = storage.join(store, event.result.rpartition("/")[0])
    files = [RESULT, *(f"{STUDENT}/{one}" for one in storage.names(storage.join(folder, STUDENT)))]
    if not event.result or len(files) == 1:
        return False
    _make_model(client, name)
    if client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        return True
    with tempfile.TemporaryDirectory() as temporary:
        data, model = Path(temporary, "trial"), Path(temporary, MODEL)
        for file in files:
            (data / file).parent.mkdir(parents=True, exist_ok=True)
            (data / file).write_bytes(storage.read(storage.join(folder, file)))
        _write_model(model, data, event.record.data.dim)
        client.log_artifacts(run_id, str(model), MODEL)
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
    tags = {"sweep.trial": event.trial} | {
        tag: value for tag, value in tags_of(event).items() if tag in ABOUT
    }
    client.create_model_version(name, source, run_id, tags=tags)
    return True


def _make_model(client: Any, name: str) -> None:
    """Create the registered model, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _write_model(folder: Path, data: Path, dim: int) -> None:
    """An MLflow model in `folder` from a trial's folder; dim: of its embeddings."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))
    embeddings = TensorSpec(np.dtype("float32"), (-1, dim))
    typed: Any = pyfunc
    typed.save_model(
        str(folder),
        loader_module=LOADER,
        data_path=str(data),
        signature=ModelSignature(Schema([images]), Schema([embeddings])),
        pip_requirements=["distilsweep"],  # given, or MLflow would load the model to find them
    )
