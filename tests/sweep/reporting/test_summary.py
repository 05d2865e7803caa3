"""Grouping by everything but the seed, and the numbers of each group."""

from __future__ import annotations

import io
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sweep.analysis.frame import load
from sweep.reporting.groups import compare, natural, text_of
from sweep.reporting.material import noises_of, some_noises
from sweep.reporting.stat import stat_of
from sweep.reporting.summary import as_plain, columns_of, short, table
from tests.sweep.reporting.trials import make_run

SIZES = {"width:1": 811_264, "width:2": 1_405_440, "width:10": 9_000_000}


def record(student="width:1", arm="clean", seed=0, rank=15.0, **config):
    """One finished trial; `config` overrides fields of its configuration."""
    base = {"dataset": "digits", "teacher": "embedded", "objective": "cosine", "epochs": 12}
    base |= {"input": "native", "views": 8, "student": student, "arm": arm, "seed": seed}
    metrics = {
        "test/rank/effective": rank,
        "test/linear/paper/accuracy": 0.7,
        "test/infonce/paper": 3.3,
    }
    metrics |= {f"test/noise/pixel/{s}/accuracy": 0.5 for s in ("0.05", "0.1", "0.2")}
    own = {name.replace("test/", "teacher/"): 0.9 for name in metrics}
    return {
        "id": f"{student}-{arm}-{seed}-{json.dumps(config)}",
        "config": base | config,
        "student": {"spec": student, "total": SIZES[student], "macs": 3_000_000},
        "data": {"train": 1438, "test": 359},
        "metrics": metrics,
        "teacher": own,
    }


def study(records):
    with tempfile.TemporaryDirectory() as folder:
        return load(make_run(Path(folder), records))


def compared(records):
    found = study(records)
    return compare(found.trials, found.axes)


def groups_of(records):
    return compared(records).groups


def shown(records, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(table(study(records)))
    return console.file.getvalue()


def test_mean_and_sd_are_numpys_with_ddof_1():
    ranks = [15.1, 16.4, 15.9, 17.2]
    (group,) = groups_of([record(seed=i, rank=rank) for i, rank in enumerate(ranks)])
    stat = group.stat("test/rank/effective")
    assert (group.n, stat.n) == (4, 4)
    assert stat.mean == pytest.approx(np.mean(ranks))
    assert stat.sd == pytest.approx(np.std(ranks, ddof=1))


def test_one_seed_has_no_sd():
    (group,) = groups_of([record()])
    assert group.stat("test/rank/effective").sd is None
    assert "15.0 ±-" in shown([record()])


def test_values_that_are_no_finite_numbers_lower_n():
    assert stat_of([None, math.nan, math.inf, "x"]) is None
    assert stat_of([1.0, math.nan, 3.0]).n == 2
    records = [record(seed=0), record(seed=1), record(seed=2)]
    del records[2]["metrics"]["test/rank/effective"]
    assert "15.0 ±0.0 n=2" in " ".join(shown(records, width=200).split())


@pytest.mark.parametrize(
    ("name", "value"),
    [("objective", "mse"), ("epochs", 5), ("input", "224"), ("ema", 0.9), ("lr", 0.1)],
)
def test_groups_never_mix_configurations(name, value):
    records = [record(seed=0), record(seed=1), record(seed=0, **{name: value})]
    found = compared(records)
    assert sorted(group.n for group in found.groups) == [1, 2]
    assert columns_of(found)[2:] == ["setting" if name == "input" else name]
    assert name in shown(records, width=200)


@pytest.mark.parametrize(
    ("part", "name"), [("data", "test"), ("data", "train"), ("student", "total")]
)
def test_groups_never_mix_data_or_sizes(part, name):
    other = record(seed=1)
    other[part][name] += 1
    assert len(groups_of([record(seed=0), other])) == 2


def test_a_seed_twice_in_a_group_is_refused():
    again = record() | {"id": "again"}
    with pytest.raises(ValueError, match="twice"):
        groups_of([record(), again])


def test_order_is_by_capacity_then_arm_clean_first():
    arms = ("noise:0.1", "crop_flip:4", "clean", "noise:0.05")
    records = [record(student, arm) for student in ("width:10", "width:2") for arm in arms]
    order = [(g.fields["student"], g.fields["arm"]) for g in groups_of(records)]
    sorted_arms = ["clean", "crop_flip:4", "noise:0.05", "noise:0.1"]
    assert order == [(student, arm) for student in ("width:2", "width:10") for arm in sorted_arms]


@pytest.mark.parametrize(
    ("name", "values"),
    [("batch_size", [64, 256, 1024, 2048]), ("lr", [1e-05, 0.0001, 0.001, 0.01])],
)
def test_groups_and_colours_are_in_the_order_of_numbers_however_they_are_written(name, values):
    """1,024 has a thousands separator, 1e-05 an exponent."""
    found = compared([record(**{name: value}) for value in reversed(values)])
    assert [group.fields[name] for group in found.groups] == values
    assert found.colours == list(map(text_of, values))


@pytest.mark.parametrize(
    "ordered",
    [
        ["-2", "-1", "0.5", "1e+06"],
        ["clean", "noise:1e-05", "noise:0.05", "noise:0.1"],
        ["params:1.5M", "params:2M", "params:10M"],
        ["N 359", "N 1,438"],
        ["ViT-B-16", "ViT-B-32"],
        ["64 · b", "1,024 · a"],
    ],
)
def test_names_are_sorted_by_the_numbers_in_them(ordered):
    turned = ordered[::-1]
    assert sorted(turned, key=natural) == ordered


def test_severities_and_gaps_in_them():
    bare = record("width:2")
    bare["metrics"] = {"test/rank/effective": 1.0, "test/noise/paper/0.1/accuracy": 0.4}
    bare["teacher"] = {}
    records = [record(), bare]
    assert noises_of(compared(records)) == [
        ("paper", "0.1"), ("pixel", "0.05"), ("pixel", "0.1"), ("pixel", "0.2")
    ]  # fmt: skip
    assert groups_of(records)[1].stat("test/noise/pixel/0.1/accuracy") is None
    assert "width:2" in shown(records)


def test_a_terminal_shows_few_of_many_severities():
    many = [("pixel", s) for s in ("0", "0.02", "0.04", "0.05", "0.1", "0.2")]
    paper = [("paper", "0.1")]
    assert some_noises(paper + many) == [
        *paper, ("pixel", "0.02"), ("pixel", "0.05"), ("pixel", "0.2")
    ]  # fmt: skip
    assert some_noises(many[:3]) == many[:3]


def test_one_teacher_per_data_set_with_its_missing_values():
    other = record(dataset="cifar10")
    other["teacher"] = {}
    first, second = compared([record(), record(seed=1), other]).settings
    assert (first.fields["dataset"], first.teacher) == ("cifar10", {})
    assert second.teacher["teacher/linear/paper/accuracy"].mean == pytest.approx(0.9)
    text = shown([record(), other], width=200)
    assert text.count("teacher ") == 2
    assert [text.count(name) for name in ("cifar10", "digits")] == [2, 2]  # teacher and group


def test_the_table_shows_whole_numbers_at_100_and_80_columns():
    arms = ("clean", "noise:0.1")
    records = [record(s, a, seed) for s in SIZES for a in arms for seed in range(3)]
    for width in (100, 80):
        text = shown(records, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert all(number in text for number in ("811,264", "9,000,000", "±0.0", "70.0", "3.30"))


def test_the_table_takes_names_as_text():
    assert "[red]x[/red]" in shown([record(arm="[red]x[/red]")], width=200)


def test_plain_rows_are_json_with_mean_sd_n():
    rows = as_plain(study([record(seed=0, rank=1.0), record(seed=1, rank=2.0)]))
    again = json.loads(json.dumps(rows, allow_nan=False))
    assert [row["kind"] for row in again] == ["teacher", "student"]
    assert again[1]["seeds"] == [0, 1]
    stat = again[1]["metrics"]["test/rank/effective"]
    assert stat == {"mean": 1.5, "sd": pytest.approx(math.sqrt(0.5)), "n": 2}


def test_random_teachers_are_named_in_the_table():
    random = table(study([record(teacher="open_clip:ViT-B-32:none")]))
    assert "RANDOM WEIGHTS: open_clip:ViT-B-32:none" in str(random.caption)
    assert "RANDOM" not in str(table(study([record()])).caption)


def test_trials_of_other_sources_never_meet_in_one_group():
    one, other = record(seed=0), record(seed=1) | {"source": "9" * 64}
    with pytest.raises(ValueError, match="differ in their seed alone, but read other images"):
        groups_of([one, other])


def test_other_weights_of_one_teacher_stand_apart():
    records = [record(seed=0), record(arm="noise:0.1") | {"weights_sha256": "9" * 64}]
    assert [s.name for s in compared(records).settings] == [f"weights {c * 12}" for c in "79"]
    assert [row["kind"] for row in as_plain(study(records))] == ["teacher"] * 2 + ["student"] * 2


def test_seeds_on_other_devices_are_groups_of_their_own():
    devices = ((0, "cpu"), (1, "H100"))
    trials = [record(seed=s) | {"environment": {"device": d}} for s, d in devices]
    found = compared(trials)
    assert {group.fields["device"] for group in found.groups} == {"cpu", "H100"}
    assert {group.label for group in found.groups} == {"cpu", "H100"}
    assert "device" in columns_of(found)


# ---- values of which only a bound is known ----


def censored(*values):
    """Trials whose noise at half accuracy is such a value, or above 0.5 where it is None."""
    half = "test/noise/pixel/half"
    records = [record(seed=seed) for seed in range(len(values))]
    for trial, value in zip(records, values, strict=True):
        trial["metrics"] |= {f"{half}/above": 0.5} if value is None else {half: value}
    return records


@pytest.mark.parametrize(
    ("values", "mean", "count", "text"),
    [
        ((0.2, 0.3), 0.25, 0, "0.25 ±0.07"),
        ((0.2, None), 0.35, 1, ">0.35"),
        ((None, None), 0.5, 2, ">0.50"),
    ],
)
def test_a_mean_with_censored_values_is_a_bound(values, mean, count, text):
    (group,) = groups_of(censored(*values))
    stat = group.stat("test/noise/pixel/half")
    assert (stat.mean, stat.n, stat.censored) == (pytest.approx(mean), len(values), count)
    assert (stat.sd is None) == (count > 0)
    assert short(stat, 1, 2, group.n) == text
    plain = as_plain(study(censored(*values)))[1]["metrics"]["test/noise/pixel/half"]
    assert plain.get("censored", 0) == count


def test_recipes_are_groups_of_their_own_and_the_first_need_not_be_named():
    old, named, new = record(seed=0), record(seed=1, recipe=1), record(seed=2, recipe=2)
    found = compared([old, named, new])
    assert [group.trials["seed"].tolist() for group in found.groups] == [[0, 1], [2]]
    assert "recipe" in columns_of(found)
