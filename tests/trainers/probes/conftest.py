"""One small bank that every probe can measure."""

import numpy as np
import pytest

from tests.trainers.probes.made import bank_of
from trainers.probes.features import Stored, unit


@pytest.fixture(scope="package")
def features():
    """Correlated student and teacher, classes that can be half told apart."""
    rng = np.random.default_rng(1)
    labels, test_labels = rng.integers(0, 4, 320), rng.integers(0, 4, 150)
    centres = rng.normal(size=(4, 24))
    train = centres[labels] + rng.normal(size=(320, 24))
    teacher = centres[test_labels] + rng.normal(size=(150, 24))
    student = teacher + 0.5 * rng.normal(size=(150, 24))
    noisy = np.stack([student + rng.normal(size=student.shape) for _ in range(3)])
    stored = {("test", "noise:0.1", view): unit(x_ND) for view, x_ND in enumerate(noisy)}
    subject = Stored(stored)
    rows = (train, labels, student, test_labels, teacher)
    fields = {"test_arms": ("noise:0.1",), "draws": 3, "text_CD": unit(centres)}
    return bank_of(*rows, subject=subject, **fields)
