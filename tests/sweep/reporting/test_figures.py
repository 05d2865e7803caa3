"""What figures say in words: means over seeds, of what was measured and of nothing else."""

from __future__ import annotations

import pytest
from scipy.stats import t

from sweep.analysis.frame import load
from sweep.reporting.figures import figures_of
from sweep.reporting.page import material_of
from sweep.reporting.stat import Stat, stat_of
from tests.sweep.reporting.trials import grid, make_run, record


def figures(folder, records):
    return figures_of(material_of(load(make_run(folder, records))))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("figures") / "run", grid())


def test_intervals_are_t_intervals_and_stay_inside_shares():
    low, high = t.interval(0.95, 2, loc=5.0, scale=0.3 / 3**0.5)
    assert Stat(5.0, 0.3, 3).interval("rank/effective") == pytest.approx((low, high))
    assert Stat(5.0, None, 1).interval("rank/effective") is None
    assert Stat(0.99, 0.02, 3).interval("linear/paper/accuracy")[1] == 1.0
    assert Stat(0.5, 1.0, 3).interval("rank/effective")[0] < 0
    assert stat_of([None, float("nan"), float("inf"), "x"]) is None
    assert stat_of([1.0, float("nan"), 3.0]) == Stat(2.0, pytest.approx(2**0.5), 2)


def test_noise_and_bands_are_means_over_seeds(drawn):
    assert "width:1 · clean, pixel noise: 5" in drawn["noise"].alt
    assert "45 at 0.05, 40 at 0.1, 30 at 0.2" in drawn["noise"].alt
    assert "width:4 · noise:0.1, band noise 0.1: 85 at 1, 80 at 2" in drawn["frequency"].alt
    assert "high" not in drawn["frequency"].alt


def test_a_map_a_group(drawn):
    assert "width:1 · clean, strength 0.5: 20 to 35" in drawn["fourier"].alt
    assert len(drawn["fourier"].panels) == 4


def test_ranks_during_training_are_told_by_their_ends(drawn):
    assert "width:1 · clean 9.0, at most 9.0, then 7.0" in drawn["curves"].alt


def test_trials_of_all_groups_are_correlated(drawn):
    assert "8 trials" in drawn["robustness"].caption


def test_what_was_not_measured_is_not_drawn(tmp_path):
    bare = [record(seed=i) for i in range(2)]
    for one in bare:
        one["metrics"], one["arrays"] = {"test/rank/effective": 2.0 + one["config"]["seed"]}, {}
        one["observations"] = {"rows": [], "teacher": {}}
    assert set(figures(tmp_path / "bare", bare)) == {"glance", "rank", "loss"}


def test_a_student_without_parameters_still_has_its_place(tmp_path):
    control = record("teacher_pca:2", seed=0)
    control["student"] = {"total": 0}
    found = figures(tmp_path / "r", [control, record()])
    assert "teacher_pca:2" in found["rank"].alt
    assert len(found["rank"].panels) == 2


def test_trials_of_other_sources_never_meet_in_one_group(tmp_path):
    records = [record(seed=0), record(seed=1) | {"source": "9" * 64}]
    with pytest.raises(ValueError, match="differ in their seed alone, but read other images"):
        figures(tmp_path / "r", records)


def test_seeds_on_other_devices_are_groups_of_their_own(tmp_path):
    records = [
        record(seed=s) | {"environment": {"device": d}} for s, d in ((0, "cpu"), (1, "H100"))
    ]
    run = make_run(tmp_path / "r", records)
    assert [group.n for group in material_of(load(run)).compared.groups] == [1, 1]
