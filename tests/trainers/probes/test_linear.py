"""The linear probe: both protocols on a bank's clean embeddings."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from shards.measures.linear_probe import GRID, Standardiser
from tests.golden import paper
from tests.shards.measures.made import clouds
from tests.trainers.probes.made import bank_of
from trainers.probes.features import unit
from trainers.probes.linear import linear, paper_classifier


def bank(n: int = 333, **fields):
    train, labels = clouds(n)
    test, test_labels = clouds(200, seed=1)
    return bank_of(train, labels, test, test_labels, test, **fields)


@pytest.mark.parametrize(("count", "kept"), [(333, 320), (128, 128), (63, 63)])
def test_the_paper_drops_the_last_short_batch(count, kept):
    features = bank(count)
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=2000)
    theirs.fit(features.train_ND[:kept].astype(float), features.train_labels_N[:kept])
    ours = paper_classifier(features)
    assert ours.model.weight_CD.numpy() == pytest.approx(theirs.coef_, abs=2e-4)
    values = dict(linear(features))
    assert values["linear/paper/n"] == kept
    assert 0 < values["linear/paper/gradient_norm"] <= 1e-7
    assert values["linear/paper/accuracy"] == theirs.score(features.test_ND, features.test_labels_N)
    assert paper_classifier(features) is ours  # fitted once


def test_the_linear_probe_is_the_papers(features):
    theirs = paper.linear_probe(features.train_ND, features.train_labels_N)
    expected = paper.accuracy(theirs, features.test_ND, features.test_labels_N)
    assert dict(linear(features))["linear/paper/accuracy"] == pytest.approx(expected, abs=1e-6)
    assert 0.4 < expected < 1


def test_narrow_cones_confound_the_paper_and_not_the_standard():
    """The same student around a far point: `paper` loses accuracy, `standard` does not."""
    (x, labels), (test, test_labels) = clouds(400), clouds(300, seed=1)
    seen = {}
    for name, far in (("wide", 2.0), ("narrow", 200.0)):
        at = far * np.eye(16)[0]
        features = bank_of(x + at, labels, test + at, test_labels, test)
        seen[name] = dict(linear(features))
    assert seen["narrow"]["linear/paper/accuracy"] < seen["wide"]["linear/paper/accuracy"] - 0.05
    assert seen["narrow"]["linear/standard/accuracy"] == pytest.approx(
        seen["wide"]["linear/standard/accuracy"], abs=0.03
    )


def test_c_and_n_are_said_and_the_test_set_has_no_part_in_them():
    features = bank(seed=5)
    values = dict(linear(features))
    assert values["linear/standard/n"] == 333
    assert values["linear/standard/C"] in GRID
    assert 0 < values["linear/standard/gradient_norm"] <= 1e-7
    standard = Standardiser.of(features.train_ND)
    theirs = LogisticRegression(C=values["linear/standard/C"], tol=1e-9, max_iter=2000)
    theirs.fit(standard(features.train_ND).astype(float), features.train_labels_N)
    expected = theirs.score(standard(features.test_ND), features.test_labels_N)
    assert values["linear/standard/accuracy"] == pytest.approx(expected, abs=0.005)
    other = replace(features, test_ND=unit(-features.test_ND), cache={})
    again = dict(linear(other))
    assert again["linear/standard/C"] == values["linear/standard/C"]
    assert again["linear/standard/accuracy"] < values["linear/standard/accuracy"]
