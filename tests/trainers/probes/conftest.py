"""One small bank that every probe can measure."""

import pytest

from tests.shards.measures.made import related
from tests.trainers.probes.made import bank_of
from trainers.probes.features import Stored, unit


@pytest.fixture(scope="package")
def features():
    """Correlated student and teacher, with three draws of one corruption and class texts."""
    made = related()
    stored = {("test", "noise:0.1", view): unit(x_ND) for view, x_ND in enumerate(made.noisy)}
    rows = (made.train, made.labels, made.student, made.test_labels, made.teacher)
    fields = {"test_arms": ("noise:0.1",), "draws": 3, "text_CD": unit(made.centres)}
    return bank_of(*rows, subject=Stored(stored), **fields)
