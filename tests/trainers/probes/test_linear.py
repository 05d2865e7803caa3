"""Linear probes: the paper's protocol against scikit-learn, and one that scale cannot move."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.golden import paper
from tests.trainers.probes.made import bank_of, rotation
from trainers.probes.features import unit
from trainers.probes.linear import (
    GRID,
    Standard,
    accuracy,
    choose_c,
    classifier,
    fit,
    held_out,
    linear,
    whole_batches,
)


def clouds(n: int, d: int = 16, classes: int = 4, apart: float = 0.7, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(9).normal(size=(classes, d)) * apart
    scales = 1 / np.sqrt(np.arange(1, d + 1))
    return ((centres[labels] + rng.normal(size=(n, d))) * scales).astype(np.float32), labels


def bank(n: int = 333, **fields):
    train, labels = clouds(n)
    test, test_labels = clouds(200, seed=1)
    return bank_of(train, labels, test, test_labels, test, **fields)


# ---- the paper's protocol ----


@pytest.mark.parametrize(("count", "kept"), [(333, 320), (128, 128), (63, 63)])
def test_the_paper_drops_the_last_short_batch(count, kept):
    features = bank(count)
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=2000)
    theirs.fit(features.train_ND[:kept].astype(float), features.train_labels_N[:kept])
    ours = classifier(features)
    assert ours.model.weight_CD.numpy() == pytest.approx(theirs.coef_, abs=2e-4)
    values = dict(linear(features))
    assert values["linear/paper/n"] == kept
    assert 0 < values["linear/paper/gradient_norm"] <= 1e-7
    assert values["linear/paper/accuracy"] == theirs.score(features.test_ND, features.test_labels_N)
    assert classifier(features) is ours  # fitted once


def test_cifars_train_set_is_cut_as_the_paper_cuts_it():
    assert whole_batches(50_000) == 49_984
    assert whole_batches(63) == 63


def test_the_paper_written_out(features):
    theirs = paper.linear_probe(features.train_ND, features.train_labels_N)
    expected = paper.accuracy(theirs, features.test_ND, features.test_labels_N)
    assert dict(linear(features))["linear/paper/accuracy"] == pytest.approx(expected, abs=1e-6)
    assert 0.4 < expected < 1


def test_two_classes_are_scikit_learns():
    x, labels = clouds(150, classes=2)
    theirs = LogisticRegression(C=0.3, tol=1e-9, max_iter=2000).fit(x.astype(float), labels)
    ours = fit(x, labels, C=0.3).model
    assert (ours.weight_CD[1] - ours.weight_CD[0]).numpy() == pytest.approx(
        theirs.coef_[0], abs=1e-4
    )


def test_what_fit_takes():
    x, labels = clouds(150)
    labels[labels == 1] = 2
    read_only = x.copy()
    read_only.flags.writeable = False
    plain = fit(x, labels)
    for given in (read_only, torch.from_numpy(x), np.asfortranarray(x), x.astype(np.float64)):
        assert (fit(given, labels).predict(given) == plain.predict(x)).all()
    guesses = plain.predict(x)
    assert (guesses.dtype, guesses.shape) == (np.int64, (150,))
    assert set(guesses) <= {0, 2, 3}
    assert accuracy(plain, x, labels) == np.mean(guesses == labels)
    with pytest.raises(ValueError, match="at least 2 classes; got only class 3"):
        fit(x, np.full(150, 3))
    with pytest.raises(ValueError, match=r"features must be floats of shape \(N, D\)"):
        fit(x[:0], labels[:0])


# ---- the standard protocol ----


def test_features_are_centred_and_divided_by_one_number():
    x, _ = clouds(500)
    standard = Standard.of(x)
    scaled = standard(x)
    assert scaled.dtype == np.float32
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert np.mean(scaled.astype(float) ** 2) == pytest.approx(1, abs=1e-6)
    spread = x.std(axis=0, dtype=float)
    assert scaled.std(axis=0) / scaled.std() == pytest.approx(spread / np.sqrt((spread**2).mean()))
    assert Standard.of(np.ones((5, 3), dtype=np.float32)).rms == 1.0


def test_rotations_shifts_and_scales_change_nothing():
    (x, labels), (test, test_labels) = clouds(400), clouds(300, seed=1)
    x, test = x.astype(float), test.astype(float)

    def probe(change):
        standard = Standard.of(change(x))
        scaled = standard(change(x))
        C = choose_c(scaled, labels, 0)
        return C, fit(scaled, labels, C).predict(standard(change(test)))

    C, guesses = probe(lambda rows: rows)
    assert 0.5 < np.mean(guesses == test_labels) < 1
    turn = rotation(16)
    for change in (
        lambda rows: rows @ turn,
        lambda rows: 1e-3 * rows,
        lambda rows: rows + 7,
        lambda rows: 50 * rows @ turn - 3,
    ):
        other, same = probe(change)
        assert other == C
        assert np.mean(same == guesses) >= 0.99


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


def test_what_is_held_out_is_a_pure_function_of_the_seed():
    labels = np.repeat([5, 2, 9, 0], [100, 40, 2, 1])
    held = held_out(labels, seed=3)
    counts = {int(c): int(held[labels == c].sum()) for c in np.unique(labels)}
    assert counts == {5: 10, 2: 4, 9: 1, 0: 0}
    assert (held_out(labels, seed=3) == held).all()
    assert (held_out(labels, seed=4) != held).any()
    mixed = np.random.default_rng(0).permutation(labels)  # by place, not by order of classes
    assert int(held_out(mixed, seed=3).sum()) == 15


def test_c_is_the_best_on_what_was_held_out():
    """scikit-learn over the same grid and split; the smallest C of equals."""
    x, labels = clouds(300)
    held = held_out(labels, 11)
    scores = {}
    for C in (1e-4, 1e-2, 1.0, 10.0):
        model = LogisticRegression(C=C, tol=1e-6, max_iter=2000).fit(x[~held], labels[~held])
        scores[C] = model.score(x[held], labels[held])
    best = min(C for C in scores if scores[C] == max(scores.values()))
    assert choose_c(x, labels, 11, (10.0, 1e-2, 1.0, 1e-4)) == best
    assert len(set(scores.values())) > 1
    with pytest.raises(ValueError, match="needs a class with two samples in train"):
        choose_c(x[:3], np.arange(3), 0)


def test_c_and_n_are_said_and_the_test_set_has_no_part_in_them():
    features = bank(seed=5)
    values = dict(linear(features))
    assert values["linear/standard/n"] == 333
    assert values["linear/standard/C"] in GRID
    assert 0 < values["linear/standard/gradient_norm"] <= 1e-7
    standard = Standard.of(features.train_ND)
    theirs = LogisticRegression(C=values["linear/standard/C"], tol=1e-9, max_iter=2000)
    theirs.fit(standard(features.train_ND).astype(float), features.train_labels_N)
    expected = theirs.score(standard(features.test_ND), features.test_labels_N)
    assert values["linear/standard/accuracy"] == pytest.approx(expected, abs=0.005)
    other = replace(features, test_ND=unit(-features.test_ND), cache={})
    again = dict(linear(other))
    assert again["linear/standard/C"] == values["linear/standard/C"]
    assert again["linear/standard/accuracy"] < values["linear/standard/accuracy"]
