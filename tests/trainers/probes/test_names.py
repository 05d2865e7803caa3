"""The glossary: every name that a probe yields is in it, once, and docs/metrics.md shows it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from shards.arms import ARMS, make_arm
from trainers.probes import PROBES, Probe
from trainers.probes.features import FeatureBank, Stored, unit
from trainers.probes.glossary import TRAINING, WORDS, parse
from trainers.probes.names import arrow, glossary, main, metric_of, metrics, with_glossary
from trainers.runner import run_trial

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
STRENGTHS = {"noise": ("noise", "noise:0.05", "noise:1e-05"), "clean": ("clean",)}


def small_bank() -> FeatureBank:
    """Random embeddings of 4 classes under every arm there is."""
    rng = np.random.default_rng(0)
    labels, test_labels = np.arange(120) % 4, np.arange(60) % 4
    centres = rng.normal(size=(4, 8))
    train, test = (unit(centres[y] + rng.normal(size=(len(y), 8))) for y in (labels, test_labels))
    arms = [spec for name in ARMS for spec in STRENGTHS.get(name, (name,))]
    specs = tuple(make_arm(spec).spec for spec in arms)
    stored = {("test", s, v): unit(test + rng.normal(size=(60, 8))) for s in specs for v in (0, 1)}
    stored |= {("train", s, 0): unit(train + rng.normal(size=(120, 8))) for s in specs}
    stored |= {("train", "clean", 0): train, ("test", "clean", 0): test}
    return FeatureBank(
        train_ND=train,
        train_labels_N=labels,
        test_ND=test,
        test_labels_N=test_labels,
        teacher_ND=unit(test + rng.normal(size=(60, 8))),
        teacher_train_ND=train,
        subject=Stored(stored),
        text_CD=unit(centres),
        classes=("a", "b", "c", "d"),
        test_arms=specs,
        draws=2,
        trained_on="fog:3",
        adapt_arms=("noise:0.1", "band_noise:2:0.1"),
    )


def test_every_name_of_every_probe_has_one_entry():
    bank = small_bank()
    for probe in PROBES:
        names = [name for name, _ in PROBES[probe].run(bank)]
        assert names
        assert len(set(names)) == len(names)
        for name in names:
            metric = metric_of(name)
            assert metric is not None, f"{probe} yields {name}: its Probe must describe it"
            assert metric.probe == probe, name


@pytest.fixture(scope="module")
def result(bank, make, tmp_path_factory):
    """A student with a network, through every probe there is, observed while it trained."""
    arms = ("noise:0.1", "noise:0.2", "fog:3", "band_noise:2", "low_pass", "fourier_map:2")
    config = make(
        epochs=1, probes=tuple(PROBES), test_arms=arms, test_views=2, curve_every="1 epochs"
    )
    return run_trial(config, bank, str(tmp_path_factory.mktemp("every")))


def test_every_name_of_a_real_trial_has_one_entry(result):
    names = [*result.metrics, *result.teacher, *result.arrays, *result.undefined]
    names += [f"curve/{name}" for row in result.observations.rows for name in row.values]
    names.append("curve/epoch")
    assert len(names) > 100
    assert [name for name in names if metric_of(name) is None] == []


def test_every_name_of_a_real_trial_declares_the_probe_that_gave_it(result):
    """Results of format 1 are split by probe through these declarations."""
    assert result.probes.keys() == set(PROBES)
    for probe, entry in result.probes.items():
        for name in [*entry.metrics, *entry.teacher, *entry.arrays, *entry.undefined]:
            assert metric_of(name).probe == probe, name


def test_values_lie_where_the_table_says(result):
    known = {"N": result.data.test, "D": result.data.dim, "F": 10_000, "min": min}

    def limit(text: str) -> float:
        return float(eval(re.sub(r"^ln (\w+)", r"log(\1)", text), known | {"log": math.log}))

    def limits(text: str) -> tuple[float, float]:
        if text.endswith(" upwards"):
            return limit(text.removesuffix(" upwards")), math.inf
        if text == "real" or text.startswith("up to "):
            return -math.inf, limit(text[6:]) if text != "real" else math.inf
        low, high = text.removeprefix("about ").split(" to ")
        slack = 0.1 * text.startswith("about ")
        return limit(low) - slack, limit(high) + slack

    values = {name: [value] for name, value in (result.metrics | result.teacher).items()}
    checked = set()
    for name, numbers in (values | result.arrays).items():
        text = metric_of(name).range
        low, high = limits(text)
        assert low - 1e-6 <= min(numbers), name
        assert max(numbers) <= high + 1e-6, name
        checked.add(text)
    assert checked >= {metric.range for metric in metrics() if metric.probe in PROBES} - {"real"}


def test_an_entry_is_for_one_probe_and_used():
    assert {metric.probe for metric in metrics()} == {*PROBES, *TRAINING}
    patterns = [metric.pattern for metric in metrics()]
    assert len(set(patterns)) == len(patterns)
    used = {word for pattern in patterns for word in pattern.split("/") if word in WORDS}
    assert used == set(WORDS)


@pytest.mark.parametrize(
    ("name", "pattern", "sign"),
    [
        ("test/rank/effective", "rank/effective", ""),
        ("teacher/dims/90", "dims/P", ""),
        ("noise/pixel/0.1/accuracy", "ARM/accuracy", "↑"),
        ("test/noise/paper/1e-05/cosine", "ARM/cosine", "↑"),
        ("crop_flip/4/accuracy", "ARM/accuracy", "↑"),
        ("clean/rank", "ARM/rank", ""),
        ("corruption/fog/3/accuracy_sd", "ARM/accuracy_sd", "↓"),
        ("band_noise/0.1/4/accuracy", "BAND/accuracy", "↑"),
        ("band_noise/0.1/4/refitted/accuracy", "ANY/refitted/accuracy", "↑"),
        ("linear/standard/C", "linear/standard/C", ""),
        ("linear/paper/accuracy/low", "linear/PROTOCOL/accuracy/END", "↑"),
        ("alignment", "alignment", "↓"),
        ("teacher/curve/uniformity", "curve/uniformity", ""),
    ],
)
def test_names_find_their_entry(name, pattern, sign):
    metric = metric_of(name)
    assert metric is not None
    assert metric.pattern == pattern
    assert arrow(name) == sign


@pytest.mark.parametrize("name", ["mean_norm", "test/rank", "noise/else/0.1/accuracy", "dims/x"])
def test_a_name_of_ones_own_has_none(name):
    assert metric_of(name) is None
    assert arrow(name) == ""


def test_a_registered_probe_brings_its_entries(monkeypatch):
    """One entry in the table is all; two that match the same name are refused."""
    text = "a/S | p | r | higher\n    one\na/1 | p | r | lower\n    two\n"
    monkeypatch.setitem(PROBES, "mine", Probe(lambda bank: iter(()), metrics=text))
    metric = metric_of("a/2")
    assert metric is not None
    assert (metric.probe, metric.meaning) == ("mine", "one")
    assert "| `a/S` | mine | p | r | ↑ | one |" in glossary()
    with pytest.raises(ValueError, match="`test/a/1`: matches a/S, a/1"):
        metric_of("test/a/1")
    monkeypatch.undo()
    assert metric_of("a/2") is None


@pytest.mark.parametrize(
    "text",
    [
        "a | u | r\n    one",
        "a | u | r | up\n    one",
        "XX/a | u | r | lower\n    one",
        "a | u | r | lower\n    one\nb | u | r | lower",
    ],
)
def test_a_wrong_entry_is_named(text):
    with pytest.raises(ValueError, match="`mine`"):
        parse("mine", text)


def test_the_page_of_metrics_is_current():
    text = PAGE.read_text()
    assert with_glossary(text, "docs/metrics.md") == text, (
        "python -m trainers.probes.names --write docs/metrics.md"
    )


def test_the_command_writes_between_the_comments(tmp_path, capsys):
    file = tmp_path / "notes.md"
    file.write_text("above\n<!-- glossary -->\nold\n<!-- /glossary -->\nbelow\n")
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(["--write", str(file)])
        assert left.value.code == 0
        text = file.read_text()
        assert text == f"above\n<!-- glossary -->\n{glossary()}<!-- /glossary -->\nbelow\n"
    file.write_text("nothing here\n")
    with pytest.raises(SystemExit) as left:
        main(["--write", str(file)])
    assert left.value.code == 2
    assert "<!-- glossary -->" in capsys.readouterr().err
    assert file.read_text() == "nothing here\n"
