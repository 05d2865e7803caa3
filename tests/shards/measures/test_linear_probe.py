"""Linear probes: the paper's protocol against scikit-learn, and one that scale cannot move."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from shards.measures import linear_probe
from shards.measures.linear_probe import (
    Standardiser,
    accuracy,
    choose_c,
    fit,
    held_out,
    whole_batches,
)
from tests.shards.measures.made import clouds, rotation

# ---- the paper's protocol ----


def test_cifars_train_set_is_cut_as_the_paper_cuts_it():
    assert whole_batches(50_000) == 49_984
    assert whole_batches(63) == 63


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
    with pytest.raises(ValueError, match="2 classes"):
        fit(x, np.full(150, 3))
    with pytest.raises(ValueError, match="features"):
        fit(x[:0], labels[:0])


# ---- the standard protocol ----


def test_features_are_centred_and_divided_by_one_number():
    x, _ = clouds(500)
    standard = Standardiser.of(x)
    scaled = standard(x)
    assert scaled.dtype == np.float32
    assert scaled.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert np.mean(scaled.astype(float) ** 2) == pytest.approx(1, abs=1e-6)
    spread = x.std(axis=0, dtype=float)
    assert scaled.std(axis=0) / scaled.std() == pytest.approx(spread / np.sqrt((spread**2).mean()))
    assert Standardiser.of(np.ones((5, 3), dtype=np.float32)).rms == 1.0


def test_rotations_shifts_and_scales_change_nothing():
    (x, labels), (test, test_labels) = clouds(400), clouds(300, seed=1)
    x, test = x.astype(float), test.astype(float)

    def probe(change):
        standard = Standardiser.of(change(x))
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
    with pytest.raises(ValueError, match="two samples"):
        choose_c(x[:3], np.arange(3), 0)


def test_the_grid_goes_on_where_its_end_is_the_best(monkeypatch):
    """Accuracy by C is given here, so that the search alone is tested."""
    x, labels = clouds(150)

    tried = []

    def chosen(score, **options):
        def accuracy(model, *_):
            tried.append(model.model)
            return score(float(np.log10(model.model))) / 10 + 0.5

        tried.clear()
        monkeypatch.setattr(linear_probe, "accuracy", accuracy)
        monkeypatch.setattr(linear_probe.SoftmaxProblem, "solve", lambda self, C, *_, start: C)
        return choose_c(x, labels, 0, (0.1, 1.0, 10.0), **options)

    assert chosen(lambda power: -abs(power)) == 1
    assert tried == [0.1, 1, 10]
    assert chosen(lambda power: -abs(power - 3)) == 1000
    assert tried == [0.1, 1, 10, 100, 1000, 10_000]
    further = ((0.01, 0.001), ())
    assert chosen(lambda power: -power, wider=further) == 0.001
    # A plateau is no reason to go on: as C goes to 0 predictions no longer change.
    assert chosen(lambda power: -max(power, -1), wider=further) == 0.1
    assert tried == [0.1, 1, 10, 0.01]
