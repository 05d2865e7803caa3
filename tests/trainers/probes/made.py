"""Embeddings whose measures are known."""

import numpy as np

from trainers.probes.features import FeatureBank, Stored, unit


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    scales = 1 / np.arange(1, d + 1)
    return np.random.default_rng(seed).normal(size=(n, d)) * scales


def orthonormal_centred(n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(n, d))
    return np.linalg.qr(x - x.mean(axis=0))[0]


def rotation(d: int, seed: int = 3) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def ill_conditioned(n: int, d: int) -> np.ndarray:
    """Singular values from 1 down to 1e-14 of the largest, about a mean that is not 0."""
    rng = np.random.default_rng(5)
    left, right = orthonormal_centred(n, d), rotation(d)
    return (left * np.logspace(0, -14, d)) @ right + rng.normal(size=d) / 50


def rank_deficient(n: int, d: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    return unit_rows(rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)))


def unit_rows(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def bank_of(train, labels, student, test_labels, teacher, teacher_train=None, **fields):
    """A FeatureBank of such rows; without a model unless `subject` is given."""
    return FeatureBank(
        train_ND=unit(train),
        train_labels_N=labels,
        test_ND=unit(student),
        test_labels_N=test_labels,
        teacher_ND=unit(teacher),
        teacher_train_ND=unit(train if teacher_train is None else teacher_train),
        **({"subject": Stored({})} | fields),
    )
