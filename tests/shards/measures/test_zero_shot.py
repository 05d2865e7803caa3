"""Zero-shot through class embeddings: closed forms, and when there is nothing to say."""

import numpy as np
import pytest

from shards.measures.zero_shot import zero_shot_labels
from tests.shards.measures.made import rotation, unit_rows


def test_zero_shot_takes_the_nearest_text():
    x = np.array([[0.9, 0.1, 0.0], [0.1, 0.2, 0.9], [-1.0, -0.1, -2.0], [1.0, 1.0, 0.0]])
    assert zero_shot_labels(x, np.eye(3)).tolist() == [0, 2, 1, 0]  # of equals the first
    assert zero_shot_labels(5 * x, np.diag([9.0, 1.0, 0.1])).tolist() == [0, 2, 1, 0]  # lengths


def test_centring_undoes_two_cones():
    """Text 0 is near every image; about both means each image has its own text."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    directions = np.eye(6)[:3]
    images = unit_rows(10 * np.eye(6)[5] + 0.5 * np.eye(6)[0] + directions[labels])
    images += 0.003 * rng.normal(size=images.shape)
    texts = unit_rows(10 * np.eye(6)[4] + directions * np.array([[3.0], [1.0], [1.0]]))
    assert np.mean(zero_shot_labels(images, texts) == labels) < 0.5
    assert np.mean(zero_shot_labels(images, texts, images.mean(axis=0)) == labels) == 1


def test_rotations_change_nothing():
    rng = np.random.default_rng(1)
    x, texts, turn = rng.normal(size=(100, 8)), rng.normal(size=(5, 8)), rotation(8)
    for centre in (None, x.mean(axis=0)):
        turned = None if centre is None else centre @ turn
        expected = zero_shot_labels(x, texts, centre)
        assert (zero_shot_labels(x @ turn, texts @ turn, turned) == expected).all()
        assert len(set(expected)) == 5


def test_zero_shot_refuses_bad_input():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="wide"):
        zero_shot_labels(x, np.ones((4, 5)))
    with pytest.raises(ValueError, match="finite"):
        zero_shot_labels(x, np.full((4, 3), np.nan))
