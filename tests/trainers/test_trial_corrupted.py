"""Trials under every corruption: at 8 pixels too, beside a teacher known by its figures."""

from __future__ import annotations

import numpy as np
import pytest

from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.building.request import Request
from shards.support.schema import validated
from trainers.canonical import make_config
from trainers.results.record import TrialResult
from trainers.runner import run_trial

ARMS = ("noise:0.1", "contrast:5", "band_noise:2:0.5")
DATA = {"dataset": "digits", "train_samples": 100, "test_samples": 40}
TRIAL = DATA | {
    "teacher": "embedded",
    "student": "width:1",
    "epochs": 0,
    "test_views": 2,
    "probes": ("linear", "robustness", "frequency"),
}


def built(place, **fields) -> str:
    request = DATA | {"teachers": ("embedded",), "test_views": 2} | fields
    build(validated(Request, request), str(place))
    return str(place)


def run(bank: str, root, **fields) -> TrialResult:
    result = run_trial(make_config(TRIAL | fields), bank, str(root))
    assert result is not None
    return result


def test_a_teacher_known_by_figures_has_the_metrics_of_one_whose_embeddings_are_stored(tmp_path):
    stored = built(tmp_path / "stored", test_arms=ARMS)
    measured = built(tmp_path / "measured", teacher_robustness=ARMS)
    one = run(stored, tmp_path / "a", test_arms=ARMS, adapt_arms=())
    other = run(measured, tmp_path / "b", test_arms=ARMS, adapt_arms=())
    assert other.metrics == one.metrics  # the student has the same pixels
    assert other.teacher == pytest.approx(one.teacher, rel=1e-6)
    assert {
        *("teacher/noise/pixel/0.1/accuracy", "teacher/noise/pixel/0.1/accuracy_sd"),
        *("teacher/corruption/contrast/5/cosine", "teacher/corruption/mean/accuracy"),
        *("teacher/band_noise/0.5/2/rank", "teacher/linear/paper/accuracy"),
    } <= set(other.teacher)
    assert other.teacher["teacher/noise/pixel/0.1/cosine"] < 1


@pytest.mark.thorough
def test_figures_that_are_added_later_are_not_hidden_by_what_was_measured_before(tmp_path) -> None:
    bank, root = built(tmp_path / "bank"), tmp_path / "root"
    before = run(bank, root, test_arms=ARMS, adapt_arms=())
    assert "teacher/noise/pixel/0.1/accuracy" not in before.teacher
    built(bank, teacher_robustness=ARMS)
    assert load_manifest(bank).robustness
    after = run(bank, root, test_arms=ARMS, adapt_arms=(), seed=1)
    assert "teacher/noise/pixel/0.1/accuracy" in after.teacher


@pytest.mark.parametrize("change", [{"student": "teacher_pca:8"}, {"classes": 4}])
@pytest.mark.thorough
def test_figures_of_the_whole_teacher_are_not_those_of_a_part_of_it(change, tmp_path) -> None:
    bank = built(tmp_path / "bank", train_samples=200, test_arms=ARMS[:1], teacher_robustness=ARMS)
    result = run(
        bank, tmp_path / "root", train_samples=200, test_arms=ARMS, adapt_arms=(), **change
    )
    lacking = result.metrics if "student" in change else result.teacher
    names = {name.split("/", 1)[1] for name in lacking}
    assert "noise/pixel/0.1/accuracy" in names  # of stored embeddings
    assert "corruption/contrast/5/accuracy" not in names


@pytest.mark.parametrize(
    ("side", "view"),
    [
        (8, "native"),
        pytest.param(8, "teacher", marks=pytest.mark.thorough),
        pytest.param(32, "native", marks=pytest.mark.thorough),
    ],
)
def test_every_group_at_every_size(side: int, view: str, tmp_path) -> None:
    bank = built(tmp_path / "bank", image_size=side)
    groups = ["cifar10c", "bands", "low_passes", "high_passes", "fourier_map:1"]
    groups += ["noise_pixel", "noise_paper"]
    result = run(
        bank,
        tmp_path / "root",
        image_size=side,
        input=view,
        test_arms=groups,
        test_views=1,
        adapt_arms=["noise", "low_pass:0.5"],
    )
    found = result.metrics
    assert sum(n.startswith("test/corruption/") and n.endswith("/rank") for n in found) == 75
    assert found["test/corruption/arms"] == 75
    accuracies = [a for n, a in found.items() if n.endswith("/accuracy")]
    assert all(0 <= a <= 1 for a in accuracies)
    for space in ("pixel", "paper"):
        assert found[f"test/noise/{space}/0/cosine"] == pytest.approx(1, abs=1e-5)
        assert found[f"test/noise/{space}/0/accuracy"] == found["test/linear/paper/accuracy"]
    assert found["test/low_pass/1/cosine"] > found["test/low_pass/0.125/cosine"]
    for how in ("refitted", "recalibrated", "recalibrated_refitted"):
        assert f"test/low_pass/0.5/{how}/accuracy" in found
    waves = [result.arrays[f"test/fourier/0.5/{n}"] for n in ("down", "across", "accuracy")]
    assert {len(row) for row in waves} == {4}
    assert np.isfinite(waves).all()


@pytest.mark.thorough
def test_seen_corruptions_are_reported_apart(tmp_path) -> None:
    bank = built(tmp_path / "bank", arms=("fog:3", "contrast:2"), views=2)
    arms = ("fog:1", "contrast:1")
    fields = {"test_arms": arms, "adapt_arms": (), "epochs": 1}
    fog = run(bank, tmp_path / "a", arm="fog:3", views=2, **fields)
    found = fog.metrics
    assert found["test/corruption/seen/accuracy"] == found["test/corruption/fog/1/accuracy"]
    assert found["test/corruption/unseen/accuracy"] == found["test/corruption/contrast/1/accuracy"]
    assert "teacher/corruption/seen/accuracy" not in fog.teacher
    one_view = run(bank, tmp_path / "b", arm="contrast:2", views=9, **fields)
    assert one_view.config["views"] == 1


# ---- configuration ----

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"test_arms": ["noise", "noise_pixel"]}, {"test_arms": ["noise:0.1", "noise_pixel"]}),
        ({"test_arms": ["bands", "band_noise:2"]}, {"test_arms": ["bands"]}),
        ({"adapt_arms": ["noise"]}, {}),
        ({"adapt_arms": ["fog", "clean"]}, {"adapt_arms": ["fog:3"]}),
        ({"probes": ["linear"], "adapt_arms": ["fog"]}, {"probes": ["linear"]}),
        ({"arm": "contrast:2", "views": 8}, {"arm": "contrast:2"}),
    ],
)
def test_spellings_of_one_list_of_arms_have_one_identity(one, other) -> None:
    assert make_config(LEAST | one).identity == make_config(LEAST | other).identity


def test_adapting_to_something_else_is_another_trial() -> None:
    assert make_config(LEAST | {"adapt_arms": []}).identity != make_config(LEAST).identity


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test_arms": ["cifar10"]}, "did you mean `cifar10c`?"),
        ({"test_arms": ["fog:9"]}, "severity `9` must be a whole number from 1 to 5"),
        ({"test_arms": ["stored:fog:1"]}, "not those of digits"),
        ({"adapt_arms": ["stored:fog:1"]}, "has test images only"),
        ({"arm": "stored:fog:1"}, "has test images only"),
        ({"adapt_arms": ["nois"]}, "did you mean `noise`?"),
    ],
)
def test_arms_that_cannot_be_measured_are_refused(change, said) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        make_config(LEAST | change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
