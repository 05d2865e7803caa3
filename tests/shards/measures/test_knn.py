"""Weighted nearest neighbours: a plain loop, scikit-learn, ties, chunks."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from shards.measures.knn import neighbour_labels
from tests.shards.measures.made import rotation, unit_rows


def clouds(n: int, d: int = 8, classes: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(9).normal(size=(classes, d))
    return unit_rows(centres[labels] + rng.normal(size=(n, d))).astype(np.float32), labels


def by_loop(train, labels, test, k=20, temperature=0.07):
    """One test row after the other, float64, neighbours by stable sort."""
    out = []
    for row in test.astype(float):
        cosine = train.astype(float) @ row
        near = np.argsort(-cosine, kind="stable")[:k]
        score = np.zeros(labels.max() + 1)
        for i in near:
            score[labels[i]] += np.exp(cosine[i] / temperature)
        out.append(int(np.argmax(score)))
    return np.array(out)


@pytest.mark.parametrize("k", [1, 3, 20, 149, 150, 151, 1000])
def test_a_loop_says_the_same(k):
    (train, labels), (test, _) = clouds(150), clouds(90, seed=1)
    expected = by_loop(train, labels, test, k)
    assert (neighbour_labels(train, labels, test, k) == expected).all()
    assert len(set(expected)) > 1


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_scikit_learn_says_the_same(temperature):
    (train, labels), (test, _) = clouds(400), clouds(200, seed=1)
    theirs = KNeighborsClassifier(
        n_neighbors=20,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    ).fit(train.astype(float), labels)
    ours = neighbour_labels(train, labels, test, temperature=temperature)
    assert (ours == theirs.predict(test.astype(float))).all()


def test_nearer_neighbours_can_outvote_more_numerous_ones():
    angles = np.deg2rad([0.0, 40.0, 41.0, 42.0])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels, test = np.array([3, 1, 1, 1]), np.array([[1.0, 0.0]], dtype=np.float32)
    # 1 - cos 40 degrees = 0.234: exp(-0.234 / 0.07) = 0.035, three of them 0.1 against 1
    assert neighbour_labels(train, labels, test, k=4).tolist() == [3]
    assert neighbour_labels(train, labels, test, k=4, temperature=10.0).tolist() == [1]


def test_of_equally_near_samples_the_first_count():
    row = unit_rows(np.array([[1.0, 2.0, 3.0]])).astype(np.float32)
    train = np.repeat(row, 200, axis=0)
    labels = np.concatenate([[2], np.full(2, 1), np.full(197, 0)])
    votes = {1: 2, 2: 1, 3: 1, 4: 1, 5: 0, 200: 0}  # of classes with equal scores the smallest
    assert {k: int(neighbour_labels(train, labels, row, k)[0]) for k in votes} == votes


@pytest.mark.parametrize("entries", [1, 151, 1000, 1 << 24])
def test_knn_in_chunks_is_the_same(entries, monkeypatch):
    (train, labels), (test, _) = clouds(150), clouds(90, seed=1)
    train[50:80], labels[50:80] = train[:30], (labels[:30] + 1) % 5  # ties
    expected = neighbour_labels(train, labels, test, 7)
    monkeypatch.setitem(neighbour_labels.__globals__, "ENTRIES", entries)
    assert (neighbour_labels(train, labels, test, 7) == expected).all()


@pytest.mark.parametrize("block", [1, 5, 64, 149])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_train_rows_in_blocks_are_the_same(block, k, monkeypatch):
    (train, labels), (test, _) = clouds(150), clouds(90, seed=1)
    train[50:80], labels[50:80] = train[:30], (labels[:30] + 1) % 5  # ties
    expected = neighbour_labels(train, labels, test, k)
    shapes = products(monkeypatch)
    monkeypatch.setitem(neighbour_labels.__globals__, "TRAIN_BLOCK", block)
    assert (neighbour_labels(train, labels, test, k) == expected).all()
    assert max(columns for _, columns in shapes) == block
    assert sum(rows * columns for rows, columns in shapes) == 90 * 150


def products(monkeypatch) -> list[tuple[int, int]]:
    """Shapes of the matrix products from now on."""
    shapes, matmul = [], torch.Tensor.__matmul__

    def watched(a, b):
        out = matmul(a, b)
        shapes.append(tuple(out.shape))
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    return shapes


def test_the_whole_matrix_is_never_there(monkeypatch):
    (train, labels), (test, _) = clouds(300), clouds(500, seed=1)
    shapes = products(monkeypatch)
    monkeypatch.setitem(neighbour_labels.__globals__, "ENTRIES", 3000)
    neighbour_labels(train, labels, test)
    seen = [rows * columns for rows, columns in shapes]
    assert sum(seen) == 300 * 500
    assert max(seen) <= 3000


def test_rotations_change_nothing_and_centring_takes_shifts_away():
    (train, labels), (test, _) = clouds(300), clouds(200, seed=1)
    plain = neighbour_labels(train, labels, test)
    turn = rotation(8)
    assert np.mean(neighbour_labels(train @ turn, labels, test @ turn) == plain) >= 0.99
    centred = neighbour_labels(train, labels, test, centre_D=train.mean(axis=0))
    shifted = [rows.astype(float) * 0.1 + 2 for rows in (train, test)]
    about = neighbour_labels(shifted[0], labels, shifted[1], centre_D=shifted[0].mean(axis=0))
    assert np.mean(about == centred) >= 0.99
    assert (by_loop(*(rows_about(train, labels, test))) == centred).all()


def rows_about(train, labels, test):
    mean = train.mean(axis=0, dtype=float)
    return unit_rows(train - mean), labels, unit_rows(test - mean)


def test_a_row_at_the_centre_is_near_to_nothing():
    (train, labels), centre = clouds(60), np.ones((1, 8), dtype=np.float32)
    found = neighbour_labels(train, labels, centre, k=3, centre_D=centre[0])
    assert found.tolist() == [np.bincount(labels[:3]).argmax()]  # all cosines 0: the first three


X, Y = clouds(10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "k must be >= 1 and temperature > 0; got 0 and 0.07"),
        ({"temperature": 0.0}, "got 20 and 0.0"),
        ({"test_ND": X[:, :3]}, r"one D; got \(10, 8\) and \(10, 3\)"),
        ({"train_ND": X[:0]}, r"train has 0 rows and labels of shape \(10,\)"),
        ({"train_labels_N": Y[:4]}, r"train has 10 rows and labels of shape \(4,\)"),
        ({"train_ND": np.where(np.eye(10, 8) > 0, np.nan, X)}, "train embedding 0 has NaN"),
        ({"test_ND": np.where(np.eye(10, 8, -2) > 0, np.inf, X)}, "test embedding 2 has NaN"),
    ],
)
def test_knn_refuses_bad_input(change, said):
    with pytest.raises(ValueError, match=said):
        neighbour_labels(**({"train_ND": X, "train_labels_N": Y, "test_ND": X} | change))
    assert neighbour_labels(X, Y, X[:0]).shape == (0,)
