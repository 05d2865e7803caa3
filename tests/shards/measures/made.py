"""Embeddings whose measures are known."""

from types import SimpleNamespace

import numpy as np


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


def related(seed: int = 1) -> SimpleNamespace:
    """Student and teacher embeddings that resemble each other, of 4 classes half told apart.

    320 train and 150 test samples of 24 dimensions: two thirds of a batch of 64 remain.
    """
    rng = np.random.default_rng(seed)
    labels, test_labels = rng.integers(0, 4, 320), rng.integers(0, 4, 150)
    centres = rng.normal(size=(4, 24))
    train = centres[labels] + rng.normal(size=(320, 24))
    teacher = centres[test_labels] + rng.normal(size=(150, 24))
    student = teacher + 0.5 * rng.normal(size=(150, 24))
    noisy = np.stack([student + rng.normal(size=student.shape) for _ in range(3)])
    return SimpleNamespace(
        train=train,
        labels=labels,
        student=student,
        test_labels=test_labels,
        teacher=teacher,
        noisy=noisy,
        centres=centres,
    )


def clouds(n: int, d: int = 16, classes: int = 4, apart: float = 0.7, seed: int = 0):
    """Overlapping classes, float32, with a variance that falls over the dimensions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(9).normal(size=(classes, d)) * apart
    scales = 1 / np.sqrt(np.arange(1, d + 1))
    return ((centres[labels] + rng.normal(size=(n, d))) * scales).astype(np.float32), labels


def seen_through_noise(n: int, seed: int, d: int = 24, sigma: float = 0.2):
    """Teacher t, and the best guess of it from t + noise: a regression to the mean, exactly."""
    t = normal(n, d, seed)
    variance = 1 / np.arange(1, d + 1) ** 2
    blurred = t + sigma * np.random.default_rng(seed + 100).normal(size=t.shape)
    return blurred * (variance / (variance + sigma**2)), t
