"""What a linear classifier reads from the embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.probes.features import FeatureBank


def classifier(bank: FeatureBank) -> Any:
    """Logistic regression on the clean train embeddings, fitted once a bank.

    The paper's protocol: unit vectors, C = 1, lbfgs, at most 2,000 iterations. (The paper drops
    the last short batch of train; here every train sample is used.)
    """
    if "classifier" not in bank.cache:
        from sklearn.linear_model import (  # pyright: ignore[reportMissingTypeStubs]
            LogisticRegression,
        )

        model: Any = LogisticRegression(C=1.0, solver="lbfgs", max_iter=2000)
        bank.cache["classifier"] = model.fit(bank.train_ND, bank.train_labels_N)
    return bank.cache["classifier"]


def accuracy(model: Any, x_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """Share of right predictions, in [0, 1]."""
    predicted_N: NDArray[np.int64] = model.predict(x_ND)
    return float((predicted_N == labels_N).mean())


def linear(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test embeddings, in [0, 1]."""
    yield "linear/paper/accuracy", accuracy(classifier(bank), bank.test_ND, bank.test_labels_N)
