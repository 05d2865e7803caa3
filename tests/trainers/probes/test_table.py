"""What every probe owes: prefixed names, plain values, the same again; rows that have no norm."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.shards.measures.made import normal, rotation
from tests.trainers.probes.made import bank_of
from trainers.probes import PROBES, check_train_labels, default_probes, run_probes
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank, Stored, unit


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


def random_bank(d, **sets):
    """30 train and 20 test rows of `d` dimensions under every arm that a probe may ask for."""
    train, test, texts = normal(30, d), normal(20, d, seed=1), normal(3, d, seed=2)
    noisy = {("test", spec, 0): unit(test + 0.1) for spec in ("noise:0.1", "low_pass:0.5")}
    fields = {"subject": Stored(noisy), "test_arms": ("noise:0.1", "low_pass:0.5")}
    rows = (train, np.arange(30) % 3, test, np.arange(20) % 3, normal(20, d, seed=3), train)
    return replace(bank_of(*rows, text_CD=unit(texts), **fields), **sets)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("d", [64, 1])
def test_few_samples_or_one_dimension_are_measured(probe, d):
    """More dimensions than samples, and one alone, where unit vectors are 1 and -1."""
    metrics, arrays = run_probes((probe,), random_bank(d), "test")
    assert metrics
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    may = {"rank/alpha", "rank/alpha/r2", "noise/pixel/half", "infonce/bound/teacher_share"}
    may |= {f"retained/rank/ratio{end}" for end in ("", "/low", "/high")}
    assert undefined <= {f"test/{name}" for name in may}
    assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.parametrize("probe", PROBES)
def test_one_test_image_is_measured_or_refused_in_words(probe):
    every = random_bank(8)
    sets = {"test_ND": every.test_ND[:1], "test_labels_N": every.test_labels_N[:1]}
    noisy = {key: x_ND[:1] for key, x_ND in every.subject.embeddings.items()}
    alone = replace(every, **sets, teacher_ND=every.teacher_ND[:1], subject=Stored(noisy), cache={})
    refused = {"spectrum", "retained", "robustness", "frequency"}  # all of them take ranks
    if probe in refused:
        with pytest.raises(ValueError, match=r"^[^\n]{20,}$"):
            run_probes((probe,), alone, "test")
    else:
        metrics, _ = run_probes((probe,), alone, "test")
        assert all(0 <= v <= 1 for n, v in metrics.items() if n.endswith("accuracy"))


@pytest.mark.parametrize("probe", PROBES)
def test_a_common_rotation_changes_no_value(whole, probe):
    turn = rotation(24)
    names = ("train_ND", "test_ND", "teacher_ND", "teacher_train_ND", "text_CD")
    sets = {name: unit(getattr(whole, name) @ turn) for name in names}
    moved = {key: unit(x_ND @ turn) for key, x_ND in whole.subject.embeddings.items()}
    turned = replace(whole, **sets, subject=Stored(moved), cache={})
    (one, _), (other, _) = (run_probes((probe,), b, "test") for b in (whole, turned))
    assert set(one) == set(other)
    for name in one:
        if not name.endswith("gradient_norm"):  # rounding, at the optimum
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5, nan_ok=True), name


def test_every_image_twice_changes_no_value_that_is_a_mean(whole):
    """What hangs on N by its definition is left out: negatives, neighbours, penalties."""
    twice = {name: np.repeat(getattr(whole, name), 2, axis=0) for name in whole.__annotations__
             if name.endswith(("_ND", "_N"))}  # fmt: skip
    both = [replace(whole, **sets, cache={}) for sets in ({}, twice)]
    names = ("spectrum", "infonce", "zero_shot")
    one, other = (run_probes(names, bank, "test")[0] for bank in both)
    on_n = ("infonce", "rank/n", "rank/rankme", "cka", "uniformity")
    kept = [n for n in one if not n.removeprefix("test/").startswith(on_n)]
    assert len(kept) > 20
    for name in [*kept, "test/uniformity/with_self"]:
        assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_that_cannot_be_normalised_are_named(bad):
    rows_ND = np.ones((4, 3))
    rows_ND[2] = bad
    with pytest.raises(ValueError, match="embedding 2"):
        unit(rows_ND)


def test_labels_that_a_probe_cannot_be_fitted_on_are_refused() -> None:
    one_of_each, one_class, enough = np.arange(5), np.zeros(5, dtype=int), np.array([0, 1, 1])
    last_is_rare = np.r_[np.zeros(64, dtype=int), 1]  # linear/paper takes whole batches of 64
    for names, labels_N, part in (
        (("linear",), one_of_each, "`linear` needs a class with 2 train images; of dataset mine"),
        (("infonce", "intervals"), one_of_each, "`intervals` needs a class with 2"),
        (("robustness",), one_class, "`robustness` needs .* two classes; .* fitted on are all of"),
        (("linear",), last_is_rare, "fitted on, the first 64 of 65 in keyed order, are all of one"),
    ):
        with pytest.raises(ValueError, match=part):
            check_train_labels(names, labels_N, "mine")
    check_train_labels(default_probes(), enough, "mine")
    check_train_labels(default_probes(), last_is_rare[::-1], "mine")
    check_train_labels(("spectrum", "truncated"), last_is_rare, "mine")
    check_train_labels(("infonce", "neighbours"), one_of_each, "mine")


def test_a_metric_name_that_mlflow_refuses_is_refused_when_registered() -> None:
    text = "recall@5 | share | 0 to 1 | higher\n    of five\n"
    with pytest.raises(ValueError, match=r"recall@5.*has '@'"):
        Probe(recall, metrics=text)


def test_a_metric_name_that_mlflow_refuses_is_refused_when_yielded(
    monkeypatch: pytest.MonkeyPatch, whole: FeatureBank
) -> None:
    monkeypatch.setitem(PROBES, "mine", Probe(recall))
    with pytest.raises(ValueError, match="probe `mine`: metric name `recall@5`"):
        run_probes(("mine",), whole, "test")


def recall(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    yield "recall@5", 0.5
