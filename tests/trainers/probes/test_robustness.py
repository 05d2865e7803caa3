"""Robustness: half severities, means, what adapting gives back, and figures the shards hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from shards.bank.order import keyed_order
from shards.bank.splits import take
from shards.measures.linear_probe import accuracy
from shards.measures.spectrum import effective_rank
from tests.trainers.probes.made import bank_of
from trainers.inputs import resolve
from trainers.probes import run_probes
from trainers.probes.feature_banks import StudentSubject
from trainers.probes.features import FeatureBank, Floats, Stored, unit
from trainers.probes.linear import paper_classifier
from trainers.probes.robustness import half_severity, robustness
from trainers.students import build_student


def names_of(bank: FeatureBank) -> dict[str, float]:
    """The numbers, without the arrays of which images are right."""
    return {name: value for name, value in robustness(bank) if not isinstance(value, list)}


def right_of(bank: FeatureBank) -> dict[str, list[float]]:
    return {name: value for name, value in robustness(bank) if isinstance(value, list)}


# ---- severities ----


def test_half_is_interpolated_at_the_first_crossing() -> None:
    curve = {0.0: 0.9, 0.1: 0.7, 0.2: 0.3, 0.3: 0.6, 0.4: 0.1}
    assert half_severity(curve, clean=0.9, chance=0.1) == pytest.approx(0.15)
    assert half_severity({0.2: 0.5}, clean=0.9, chance=0.1) == pytest.approx(0.2)
    assert half_severity({0.2: 0.1}, clean=0.9, chance=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("curve", "clean"),
    [({0.1: 0.1}, 0.1), ({0.1: 0.1}, 0.05)],
)
def test_half_of_nothing_above_chance_is_undefined(curve, clean) -> None:
    assert np.isnan(half_severity(curve, clean, chance=0.1))


def test_half_that_is_never_lost_is_above_all_that_was_measured() -> None:
    assert half_severity({0.1: 0.8, 0.2: 0.6}, 0.9, chance=0.1) == np.inf
    assert half_severity({}, 1, chance=0.1) == np.inf


def test_a_half_that_is_not_lost_is_censored_at_the_largest_noise(features) -> None:
    arms = ("noise:0.1", "noise:0.3")
    figures = {spec: {"accuracy": 1.0, "cosine": 0.5, "rank": 7.0} for spec in arms}
    measured = replace(features, test_arms=arms, subject=Stored({}), figures=figures, cache={})
    robust = names_of(measured)
    assert robust["noise/pixel/half"] == np.inf  # recorded as undefined
    assert robust["noise/pixel/half/above"] == 0.3
    lost = figures["noise:0.3"] | {"accuracy": 0.0}
    found = names_of(replace(measured, figures=figures | {"noise:0.3": lost}, cache={}))
    assert 0.1 < found["noise/pixel/half"] < 0.3
    assert "noise/pixel/half/above" not in found


# ---- figures ----


def test_figures_are_the_papers_averaged_over_draws(features) -> None:
    found = names_of(features)
    model = LogisticRegression(C=1.0, solver="lbfgs", max_iter=2000)
    model.fit(features.train_ND[:256], features.train_labels_N[:256])  # whole batches of 64
    draws = [features.subject.embed("test", "noise:0.1", view) for view in range(3)]
    scores = [model.score(x_ND, features.test_labels_N) for x_ND in draws]
    assert found["noise/pixel/0.1/accuracy"] == pytest.approx(np.mean(scores), abs=0.007)
    assert found["noise/pixel/0.1/accuracy_sd"] == pytest.approx(np.std(scores, ddof=1), abs=0.007)
    cosines = [(x_ND * features.test_ND).sum(axis=1).mean() for x_ND in draws]
    assert found["noise/pixel/0.1/cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    ranks = [effective_rank(x_ND) for x_ND in draws]
    assert found["noise/pixel/0.1/rank"] == pytest.approx(np.mean(ranks))
    assert set(found) - {"noise/pixel/half", "noise/pixel/half/above"} == {
        f"noise/pixel/0.1/{figure}" for figure in ("accuracy", "accuracy_sd", "cosine", "rank")
    }


def test_each_image_has_the_share_of_draws_in_which_it_is_right(features) -> None:
    (shares_N,) = right_of(features).values()
    draws = [features.subject.embed("test", "noise:0.1", view) for view in range(3)]
    predicted = [paper_classifier(features).predict(x_ND) for x_ND in draws]
    assert shares_N == [sum(row) / 3 for row in np.transpose(predicted == features.test_labels_N)]
    assert 0 < np.mean(shares_N) < 1
    name = "noise/pixel/0.1/accuracy"
    assert np.mean(shares_N) == pytest.approx(names_of(features)[name], abs=1e-12)
    kept = {"noise:0.2": {"accuracy": 0.5, "cosine": 0.25, "rank": 7.0}}
    stored = replace(features, test_arms=("noise:0.2",), figures=kept, cache={})
    assert right_of(stored) == {}  # of stored figures no image is known


def test_what_a_subject_lacks_is_left_out_or_told_by_the_shards(features) -> None:
    alone = replace(features, test_arms=("noise:0.2",), cache={})
    assert names_of(alone) == {}
    kept = {"noise:0.2": {"accuracy": 0.5, "cosine": 0.25, "rank": 7.0}}
    found = names_of(replace(alone, figures=kept, cache={}))
    assert found["noise/pixel/0.2/accuracy"] == 0.5
    assert found["noise/pixel/0.2/rank"] == 7.0
    assert "noise/pixel/half" in found
    both = replace(features, figures={"noise:0.1": kept["noise:0.2"]}, cache={})
    assert names_of(both)["noise/pixel/0.1/rank"] != 7.0  # what can be embedded is


def test_means_with_and_without_what_was_trained_on(features) -> None:
    values = {"fog:1": 0.8, "fog:5": 0.2, "gaussian_noise:1": 0.9, "contrast:2": 0.7}
    kept = {s: {"accuracy": a, "cosine": 1.0, "rank": 2.0} for s, a in values.items()}
    kept |= {"stored:fog:1": {"accuracy": 0.4, "cosine": 1.0, "rank": 2.0}}
    kept |= {"noise:0.1": {"accuracy": 0.1, "cosine": 1.0, "rank": 2.0}}  # no corruption of theirs
    bank = replace(features, figures=kept, test_arms=tuple(kept), subject=Stored({}), cache={})
    found = names_of(bank)
    assert found["corruption/mean/accuracy"] == pytest.approx(0.65)
    assert found["corruption/arms"] == 4
    assert found["corruption/unseen/accuracy"] == pytest.approx(0.65)
    assert "corruption/seen/accuracy" not in found
    assert found["stored/mean/accuracy"] == 0.4
    for trained, seen, unseen in (
        ("noise:0.2", 0.9, (0.8 + 0.2 + 0.7) / 3),
        ("fog:3", 0.5, 0.8),
        ("crop_flip", None, 0.65),
    ):
        found = names_of(replace(bank, trained_on=trained, cache={}))
        assert found["corruption/mean/accuracy"] == pytest.approx(0.65)
        assert found["corruption/unseen/accuracy"] == pytest.approx(unseen)
        assert found.get("corruption/seen/accuracy") == (seen and pytest.approx(seen))
    extra = kept | {"stored:speckle_noise:1": {"accuracy": 0.0, "cosine": 1.0, "rank": 2.0}}
    wide = replace(bank, figures=extra, test_arms=tuple(extra), cache={})
    assert names_of(wide)["stored/mean/accuracy"] == 0.4  # the extra four are in no mean
    some = names_of(replace(bank, test_arms=(*kept, "snow:1"), cache={}))
    assert "corruption/mean/accuracy" not in some  # a mean over others would be compared with it
    assert some["stored/mean/accuracy"] == 0.4
    frost = {"stored:frost:1": {"accuracy": 0.3, "cosine": 1.0, "rank": 2.0}}
    cold = replace(bank, figures=frost, test_arms=tuple(frost), cache={})
    found = names_of(replace(cold, trained_on="procedural_frost:3"))
    assert found["stored/seen/accuracy"] == 0.3
    alone = replace(bank, test_arms=("fog:1",), trained_on="fog:2", cache={})
    assert "corruption/unseen/accuracy" not in names_of(alone)
    assert names_of(alone)["corruption/seen/accuracy"] == 0.8


# ---- adapting ----


@dataclass(frozen=True)
class Moved:
    """Embeddings that a corruption turns by 90 degrees in the first two axes: moved, not lost."""

    clean: dict[str, np.ndarray]
    turned: bool = True

    def embed(self, split, arm: str = "clean", view: int = 0) -> Floats:
        x_ND = self.clean[split]
        if arm == "clean" or not self.turned:
            return unit(x_ND)
        return unit(np.c_[-x_ND[:, 1], x_ND[:, 0], x_ND[:, 2:]])

    def penultimate(self, split) -> None:
        return None

    def recalibrated(self, arm: str):
        return replace(self, turned=False)


def moved_bank(**fields) -> FeatureBank:
    rng = np.random.default_rng(0)
    labels, test_labels = np.arange(80) % 4, np.arange(40) % 4
    centres = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    train = centres[labels] + 0.1 * rng.normal(size=(80, 3))
    test = centres[test_labels] + 0.1 * rng.normal(size=(40, 3))
    subject = Moved({"train": train, "test": test})
    rows = (train, labels, test, test_labels, test)
    settings = {"subject": subject, "test_arms": ("noise:0.1",), "adapt_arms": ("noise:0.1",)}
    return bank_of(*rows, **(settings | {"draws": 2} | fields))


def test_moved_information_comes_back_when_the_probe_or_batchnorm_adapts() -> None:
    bank = moved_bank()
    assert accuracy(paper_classifier(bank), bank.test_ND, bank.test_labels_N) == 1
    found = names_of(bank)
    assert found["noise/pixel/0.1/accuracy"] == 0
    assert found["noise/pixel/0.1/refitted/accuracy"] == 1
    assert found["noise/pixel/0.1/recalibrated/accuracy"] == 1
    assert found["noise/pixel/0.1/recalibrated_refitted/accuracy"] == 1
    assert found["noise/pixel/half"] == pytest.approx(0.1 * (1 - 0.625))  # 1 to 0, chance 1/4
    right = right_of(bank)
    assert right["noise/pixel/0.1/correct"] == [0.0] * 40
    for way in ("refitted", "recalibrated", "recalibrated_refitted"):
        assert right[f"noise/pixel/0.1/{way}/correct"] == [1.0] * 40


def test_adapting_leaves_the_clean_classifier_alone() -> None:
    bank = moved_bank()
    before = paper_classifier(bank)
    _ = names_of(bank)
    assert paper_classifier(bank) is before


def test_without_batchnorm_or_train_images_there_is_nothing_to_adapt(features) -> None:
    bank = moved_bank(adapt_arms=("fog:1",), test_arms=())
    assert set(names_of(bank)) == {
        f"corruption/fog/1/{how}/accuracy"
        for how in ("refitted", "recalibrated", "recalibrated_refitted")
    }
    assert names_of(replace(features, test_arms=(), adapt_arms=("noise:0.1",), cache={})) == {}


def test_a_last_batch_of_one_image_is_left_out_where_it_has_no_variance(bank, make) -> None:
    """Batches of 100: the 101st image is alone, at 1x1 pixels in this student's last layers."""
    cpu = torch.device("cpu")
    splits = resolve(make(), bank).load(cpu)
    model = build_student("timm:test_resnet", 512, splits.inputs.preprocess.size, 0)
    found = {}
    for count in (100, 101):
        clean = take({"clean": splits.clean_train}, keyed_order(splits.clean_train.keys)[:count])
        subject = StudentSubject(model, replace(splits, clean_train=clean["clean"]), cpu)
        adapted = subject.recalibrated("clean")
        assert adapted is not None
        modules = adapted.model.named_modules()
        found[count] = {name: m for name, m in modules if hasattr(m, "running_mean")}
    first, *_, last = found[100]
    assert [int(found[101][name].num_batches_tracked) for name in (first, last)] == [2, 1]
    assert torch.equal(found[101][last].running_var, found[100][last].running_var)
    assert not torch.equal(found[101][first].running_var, found[100][first].running_var)


# ---- by frequency ----


def test_bands_passes_and_waves_are_the_frequency_probes(features) -> None:
    kept = {
        spec: {"accuracy": 0.1 * i, "cosine": 0.2, "rank": 3.0}
        for i, spec in enumerate(
            [
                *("band_noise:1:0.1", "low_pass:0.5", "high_pass:0.5", "noise:0.2"),
                *("fourier:0:1:0.5", "fourier:0.5:-0.5:0.5", "fourier:1:1:0.25"),
            ]
        )
    }
    bank = replace(features, figures=kept, test_arms=tuple(kept), subject=Stored({}), cache={})
    metrics, arrays = run_probes(("frequency",), bank, "test")
    assert metrics == {
        f"test/{name}/{figure}": kept[spec][figure]
        for name, spec in (
            ("band_noise/0.1/1", "band_noise:1:0.1"),
            ("low_pass/0.5", "low_pass:0.5"),
            ("high_pass/0.5", "high_pass:0.5"),
        )
        for figure in ("accuracy", "cosine", "rank")
    }
    assert arrays == {
        "test/fourier/0.5/down": [0.0, 0.5],
        "test/fourier/0.5/across": [1.0, -0.5],
        "test/fourier/0.5/accuracy": [0.4, 0.5],
        "test/fourier/0.5/cosine": [0.2, 0.2],
        "test/fourier/0.25/down": [1.0],
        "test/fourier/0.25/across": [1.0],
        "test/fourier/0.25/accuracy": pytest.approx([0.6]),
        "test/fourier/0.25/cosine": [0.2],
    }
    metrics, _ = run_probes(("robustness",), bank, "test")
    assert not [name for name in metrics if "band" in name or "pass" in name or "fourier" in name]
    assert metrics["test/noise/pixel/0.2/accuracy"] == pytest.approx(0.3)
