"""How accuracy and embeddings hold under corruption of the test images.

The classifier is the one fitted on clean train embeddings. Draws are a pure function of (seed,
key, view), so every student and the teacher meet exactly the same corrupted images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shards.arms import make_arm
from trainers.probes.features import FeatureBank
from trainers.probes.linear import accuracy, classifier


def robustness(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """For every corruption, averaged over draws: accuracy, and cosine to the clean embedding."""
    for spec in bank.test_arms:
        scores: list[float] = []
        cosines: list[float] = []
        for view in range(bank.draws):
            x_ND = bank.subject.embed("test", spec, view)
            if x_ND is None:
                break
            scores.append(accuracy(classifier(bank), x_ND, bank.test_labels_N))
            cosines.append(float((x_ND.astype(np.float64) * bank.test_ND).sum(axis=-1).mean()))
        if scores:
            name = make_arm(spec).metric
            yield f"{name}/accuracy", float(np.mean(scores))
            yield f"{name}/cosine", float(np.mean(cosines))
