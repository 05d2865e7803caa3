"""How accuracy and embeddings hold under corruption of the test images.

The classifier is the one fitted on clean train embeddings. Draws are stored beside the shards'
keys, so every student and the teacher meet exactly the same corrupted images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainers.probes.features import FeatureBank
from trainers.probes.linear import accuracy, classifier


def robustness(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """For every corruption, averaged over draws: accuracy, and cosine to the clean embedding."""
    for name, noisy_VND in bank.noisy.items():
        scores = [accuracy(classifier(bank), x_ND, bank.test_labels_N) for x_ND in noisy_VND]
        yield f"{name}/accuracy", float(np.mean(scores))
        yield (
            f"{name}/cosine",
            float((noisy_VND.astype(np.float64) * bank.test_ND).sum(axis=-1).mean()),
        )
