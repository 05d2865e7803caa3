"""What every probe owes: prefixed names, plain values, the same again; rows that have no norm."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trainers.probes.made import bank_of, normal
from trainers.probes import PROBES, run_probes
from trainers.probes.features import unit


@pytest.fixture
def whole(features):
    """The bank with something for every probe: texts of the classes, figures of a filter."""
    figures = {"low_pass:0.5": {"accuracy": 0.5, "cosine": 0.5, "rank": 3.0}}
    arms, texts = (*features.test_arms, *figures), unit(normal(4, 24))
    return replace(features, text_CD=texts, test_arms=arms, figures=figures, cache={})


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_prefixes_its_names_and_gives_plain_values(whole, probe):
    metrics, arrays = run_probes((probe,), whole, "teacher")
    assert metrics
    for name in [*metrics, *arrays]:
        assert name.startswith("teacher/")
    assert all(type(value) is float for value in metrics.values())
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    few = {"teacher/rank/alpha", "teacher/rank/alpha/r2"}  # 24 dimensions
    assert undefined <= few | {"teacher/noise/pixel/half"}  # half is not lost
    for array in arrays.values():
        assert type(array) is list
        assert all(type(value) is float and np.isfinite(value) for value in array)
    again, _ = run_probes((probe,), whole, "teacher")
    assert again == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_no_two_probes_give_the_same_name(whole):
    given = [run_probes((probe,), whole, "test") for probe in PROBES]
    names = [name for metrics, arrays in given for name in [*metrics, *arrays]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("probe", PROBES)
def test_a_collapsed_student_is_measured(features, probe):
    """One vector for every image: no rank, chance, and figures that are defined or NaN."""
    train, test = (np.ones_like(x_ND) for x_ND in (features.train_ND, features.test_ND))
    rows = train, features.train_labels_N, test, features.test_labels_N
    bank = bank_of(*rows, features.teacher_ND, features.teacher_train_ND)
    metrics, _ = run_probes((probe,), bank, "test")
    known = {
        "spectrum": {"rank/effective": 0, "dims/90": 0, "variance": 0},
        "linear": {},
        "infonce": {"uniformity": 0, "infonce/full/reverse": np.log(150)},
        "intervals": {"rank/effective/low": 0, "rank/at/100": 0},
        "retained": {"retained/rank/effective": 0, "retained/share": 0},
    }
    for name, value in known.get(probe, {}).items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-12)
    for name, value in metrics.items():
        if name.endswith("accuracy"):
            assert value < 0.5


@pytest.mark.parametrize("probe", ["spectrum", "retained", "infonce", "intervals", "truncated"])
def test_fewer_samples_than_dimensions_are_measured(probe):
    train, test = normal(30, 64), normal(20, 64, seed=1)
    bank = bank_of(train, np.arange(30) % 3, test, np.arange(20) % 3, test, train)
    metrics, arrays = run_probes((probe,), bank, "test")
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    assert undefined <= {"test/rank/alpha", "test/rank/alpha/r2"}
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_that_cannot_be_normalised_are_named(bad):
    rows_ND = np.ones((4, 3))
    rows_ND[2] = bad
    with pytest.raises(ValueError, match="embedding 2 is not finite or has norm 0"):
        unit(rows_ND)
