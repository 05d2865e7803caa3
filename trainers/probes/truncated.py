"""Accuracy from the first k principal components: is low rank what costs accuracy?

See `shards.measures.truncated`.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.measures.truncated import truncated_accuracies
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.linear import LINEAR
from trainers.probes.spectrum import SPECTRUM


def truncated(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test embeddings for each k."""
    sets = bank.train_ND, bank.train_labels_N, bank.test_ND, bank.test_labels_N
    for k, refit, fixed in truncated_accuracies(*sets):
        yield f"truncated/refit/{k}/accuracy", refit
        yield f"truncated/fixed/{k}/accuracy", fixed


TRUNCATED = Probe(
    truncated,
    uses=(LINEAR, SPECTRUM),
    default=True,
    metrics="""
truncated/refit/K/accuracy | share | 0 to 1 | higher
    a classifier fitted on the embeddings' first K principal components alone
truncated/fixed/K/accuracy | share | 0 to 1 | higher
    the classifier of all components, where only the first K of the test embeddings are kept
""",
)
