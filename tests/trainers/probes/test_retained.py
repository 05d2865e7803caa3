"""The retained-variance probe: its values are those of its arrays and of the spectrum."""

import numpy as np
import pytest

from tests.shards.measures.made import seen_through_noise
from tests.trainers.probes.made import bank_of
from trainers.probes import run_probes


def test_the_retained_probe_reports_share_and_rank_ratio():
    train, teacher_train = seen_through_noise(900, 0)
    test, teacher = seen_through_noise(600, 1)
    rows = train + 1, np.arange(900) % 2, test + 1, np.arange(600) % 2
    metrics, arrays = run_probes(("retained",), bank_of(*rows, teacher, teacher_train), "test")
    assert 0.3 < metrics["test/retained/share"] < 1
    own = run_probes(("spectrum",), bank_of(*rows, teacher), "test")[0]["test/rank/effective"]
    ratio = own / metrics["test/retained/rank/effective"]
    assert metrics["test/retained/rank/ratio"] == pytest.approx(ratio)
    assert (
        metrics["test/retained/rank/ratio/low"] < ratio < metrics["test/retained/rank/ratio/high"]
    )
    assert len(arrays["test/retained/r2"]) == len(arrays["test/retained/variance"]) == 24


def test_of_a_teacher_that_does_not_vary_all_other_values_are_given():
    rows = seen_through_noise(90, 0)[0], np.arange(90) % 2, seen_through_noise(60, 1)[0]
    flat = np.ones((90, 4))
    bank = bank_of(*rows, np.arange(60) % 2, flat[:60], flat)
    metrics, arrays = run_probes(("spectrum", "retained"), bank, "test")
    assert np.isnan(metrics["test/retained/share"])
    assert metrics["test/retained/rank/effective"] == 0
    assert arrays["test/retained/r2"] == arrays["test/retained/variance"] == []
