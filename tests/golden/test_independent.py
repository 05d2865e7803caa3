"""A finished trial's values against straight-line code that imports nothing of the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.independent import expected, keyed
from tests.golden.independent import unit as normed
from trainers.inputs import resolve
from trainers.probes.feature_banks import student_features
from trainers.results.folder import trial_folder
from trainers.students.files import load_student

# Solvers stop at other points and float32 embeddings carry 1e-7; accuracies must be equal.
TOLERANCE = {"linear": 0, "knn": 0, "zero_shot": 0}


@pytest.fixture(scope="module")
def arrays(bank: str, done) -> dict[str, np.ndarray]:
    """The embeddings that the trial's probes saw, by the stored student."""
    config, root, result, _ = done
    splits = resolve(config, bank).load(torch.device("cpu"), training=False)
    # Labels and the teacher's embeddings come from the bank itself, in an order computed here.
    train, test = splits.clean_train, splits.test["clean"]
    train_N, test_N = keyed(train.keys), keyed(test.keys)
    model = load_student(str(Path(trial_folder(root, config), "student")))
    features = student_features(model, splits, torch.device("cpu"))
    views = [features.subject.embed("test", "noise:0.1", view) for view in range(2)]
    raw = {
        "x": features.test_ND, "x_train": features.train_ND,
        "t": normed(test.embedding_NVD[test_N, 0].astype(float)),
        "t_train": normed(train.embedding_NVD[train_N, 0].astype(float)),
        "y": test.labels_N[test_N], "y_train": train.labels_N[train_N],
        "text": features.text_CD, "raw": features.subject.penultimate("test"),
        "noisy_V": np.stack(views), "C": np.array(result.metrics["test/linear/standard/C"]),
    }  # fmt: skip
    whole = ("y", "y_train")
    return {n: v if n in whole else np.asarray(v, dtype=np.float64) for n, v in raw.items()}


def test_every_value_is_found_again(arrays: dict[str, np.ndarray], done) -> None:
    metrics = done[2].metrics
    found = expected(arrays)
    assert len(found) > 45
    for name, value in found.items():
        tolerance = TOLERANCE.get(name.split("/")[0], 2e-5)
        assert metrics[f"test/{name}"] == pytest.approx(value, rel=tolerance, abs=tolerance), name
