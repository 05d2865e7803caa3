"""What every probe owes: prefixed names, plain values, the same again; rows that have no norm."""

import numpy as np
import pytest

from trainers.probes import PROBES, run_probes
from trainers.probes.features import unit


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_prefixes_its_names_and_gives_plain_values(features, probe):
    metrics, arrays = run_probes((probe,), features, "teacher")
    assert metrics
    for name in [*metrics, *arrays]:
        assert name.startswith("teacher/")
    assert all(type(value) is float for value in metrics.values())
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    assert undefined <= {"teacher/rank/alpha", "teacher/rank/alpha/r2"}  # 24 dimensions
    for array in arrays.values():
        assert type(array) is list
        assert all(type(value) is float and np.isfinite(value) for value in array)
    again, _ = run_probes((probe,), features, "teacher")
    assert again == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_no_two_probes_give_the_same_name(features):
    given = [run_probes((probe,), features, "test") for probe in PROBES]
    names = [name for metrics, arrays in given for name in [*metrics, *arrays]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_that_cannot_be_normalised_are_named(bad):
    rows_ND = np.ones((4, 3))
    rows_ND[2] = bad
    with pytest.raises(ValueError, match="embedding 2 is not finite or has norm 0"):
        unit(rows_ND)
