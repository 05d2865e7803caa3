"""A finished trial's student as an MLflow model: what `mlflow.pyfunc.load_model` calls.

The model's data is a trial's folder, result.json and student/. Nothing in it is executed and
nothing is unpickled: the weights are safetensors, the rest is JSON, and this module is the loader
that the file MLmodel names. So this package must be installed where the model is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.results.loaded import LoadedStudent, load


class EmbeddingModel:
    """Pictures -> unit embeddings, as MLflow calls a model."""

    def __init__(self, student: LoadedStudent) -> None:
        self.student = student

    def predict(
        self, model_input: NDArray[np.uint8], params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Unit embeddings (B, D) of images, uint8 (B, H, W, 3). `params` has no effect.

        Raises: ValueError for anything else.
        """
        return self.student(model_input).numpy()


def _load_pyfunc(path: str) -> EmbeddingModel:  # pyright: ignore[reportUnusedFunction]
    """MLflow's name for a loader. Raises: as `trainers.results.loaded.load`."""
    return EmbeddingModel(load(path))
