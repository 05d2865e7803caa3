"""What a linear classifier reads from the embeddings, by two protocols.

See `shards.measures.linear_probe`: `paper` is C = 1 on unit vectors, `standard` standardises them
by train and chooses C on a held-out tenth.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.measures.linear_probe import (
    Classifier,
    StandardClassifier,
    accuracy,
    fit_paper,
    fit_standard,
    whole_batches,
)
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank


def paper_classifier(bank: FeatureBank) -> Classifier:
    """The paper's protocol on the clean train embeddings, fitted once per bank."""
    return bank.cached("linear/paper", lambda: fit_paper(bank.train_ND, bank.train_labels_N))


def standard_classifier(bank: FeatureBank) -> StandardClassifier:
    """The standard protocol on the clean train embeddings, fitted once per bank."""
    return bank.cached(
        "linear/standard", lambda: fit_standard(bank.train_ND, bank.train_labels_N, bank.seed)
    )


def linear(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Of both protocols: accuracy on the clean test embeddings, gradient norm, C and N."""
    paper, standard = paper_classifier(bank), standard_classifier(bank)
    yield "linear/paper/accuracy", accuracy(paper, bank.test_ND, bank.test_labels_N)
    yield "linear/paper/gradient_norm", paper.gradient_norm
    yield "linear/paper/n", float(whole_batches(len(bank.train_ND)))
    yield "linear/standard/accuracy", accuracy(standard, bank.test_ND, bank.test_labels_N)
    yield "linear/standard/gradient_norm", standard.model.gradient_norm
    yield "linear/standard/C", standard.C
    yield "linear/standard/n", float(len(bank.train_ND))


LINEAR = Probe(
    linear,
    revision=5,
    class_images=2,  # one of them is held out to choose C
    default=True,
    metrics="""
linear/PROTOCOL/accuracy | share | 0 to 1 | higher
    logistic regression fitted on clean train embeddings: share of clean test images it gets right
linear/PROTOCOL/gradient_norm | objective per sample | 0 upwards | lower
    largest entry of the gradient where the solver stopped: how near that is to the optimum
linear/PROTOCOL/n | images | 2 upwards | neither
    train images it was fitted on; C multiplies the sum of as many losses
linear/standard/C | inverse penalty | 1e-9 to 1e4 | neither
    C of the standard protocol, chosen on a held-out tenth; at an end the best may lie beyond
""",
)
