"""What figures say in words: means over seeds, of what was measured and of nothing else."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from scipy.stats import spearmanr, t

from sweep.analysis.frame import load
from sweep.reporting.drawing import TEACHER, Panel, as_svg
from sweep.reporting.figures import figures_of, legend_of
from sweep.reporting.material import mean_curve
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


def tooltips(figure, panel=0):
    """What a reader sees who points at the values of a panel."""
    svg = as_svg("test", figure.panels[panel][1])
    return [html.unescape(text) for text in re.findall(r'data-tooltip="([^"]*)"', svg)]


def test_spectra_are_summed_and_shares_of_a_subspace_are_not(drawn):
    shares = np.exp(-np.arange(20) / 6)
    share = 100 * shares[:5].sum() / shares.sum()  # of the record's spectrum
    for name in ("variance", "subspace"):
        found = tooltips(drawn[name])
        assert f"width:1 · clean, k = 5: {share:.1f} %" in found
        assert f"teacher, k = 5: {share:.1f} %" in found


def test_values_and_their_intervals_are_those_of_the_trials(drawn):
    first, second = (record(seed=seed)["metrics"] for seed in (0, 1))
    ranks = [one["test/rank/effective"] for one in (first, second)]
    low, high = t.interval(0.95, 1, np.mean(ranks), np.std(ranks, ddof=1) / 2**0.5)
    found = tooltips(drawn["glance"])
    assert f"width:1 · clean: {np.mean(ranks):.4g} [{low:.4g}, {high:.4g}], n = 2" in found
    assert f"width:1 · clean, seed 1: {ranks[1]:.4g}" in found
    shrunk = first["test/retained/rank/effective"]
    words = f"rank that shrinkage alone would give {shrunk:.4g}, effective rank {ranks[0]:.4g}"
    assert f"width:1 · clean, seed 0: {words}" in tooltips(drawn["collapse"])
    assert "width:1 · clean, seed 1: 0.3333 at the end" in tooltips(drawn["loss"])


def test_rank_and_agreement_are_means_over_seeds(drawn):
    for figure, metric, digits in (
        ("rank", "test/rank/roy_vetterli", 1),
        ("agreement", "test/infonce/paper", 3),
        ("collapse", "test/retained/rank/ratio", 2),
    ):
        mean = np.mean([record("width:4", seed=seed)["metrics"][metric] for seed in (0, 1)])
        assert f"width:4 · clean {mean:.{digits}f}" in drawn[figure].alt


def test_a_map_a_group(drawn):
    assert "width:1 · clean, strength 0.5: 20 to 35" in drawn["fourier"].alt
    assert len(drawn["fourier"].panels) == 4


def test_maps_are_in_the_order_of_their_strengths(tmp_path):
    one = record()
    for name in ("down", "across", "accuracy"):
        waves = one["arrays"][f"test/fourier/0.5/{name}"]
        one["arrays"] |= {f"test/fourier/{strength}/{name}": waves for strength in ("10", "2")}
    panels = figures(tmp_path / "r", [one])["fourier"].panels
    assert [title.rpartition(" ")[2] for title, _ in panels] == ["0.5", "2", "10"]


def test_ranks_during_training_are_described_by_their_ends(drawn):
    assert "width:1 · clean 9.0, at most 9.0, then 7.0" in drawn["curves"].alt


def test_trials_of_all_groups_are_correlated(drawn):
    trials = [one["metrics"] for one in grid()]
    names = ("test/rank/effective", "test/linear/paper/accuracy")
    rho = spearmanr(*([one[name] for one in trials] for name in names)).statistic
    assert f" = {rho:.2f}, 8 trials" in drawn["robustness"].caption
    assert "8 trials, equal in one of the two: no correlation" in drawn["robustness"].caption


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


def test_seeds_that_ended_after_other_steps_are_one_group(tmp_path):
    """What a trial's result says is no field by which groups differ."""
    records = [record(seed=seed, duration="1 minutes") for seed in range(2)]
    del records[1]["epochs"][-1]
    run = make_run(tmp_path / "r", records)
    assert set(load(run).trials["steps"]) == {20, 30}
    assert [group.n for group in material_of(load(run)).compared.groups] == [2]


def test_seeds_on_other_devices_are_groups_of_their_own(tmp_path):
    records = [
        record(seed=s) | {"environment": {"device": d}} for s, d in ((0, "cpu"), (1, "H100"))
    ]
    run = make_run(tmp_path / "r", records)
    assert [group.n for group in material_of(load(run)).compared.groups] == [1, 1]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([], ("right", "bottom")),
        ([(0.9, 5.3)], ("right", "top")),
        ([(0.9, 5.3), (0.9, 4.7)], ("left", "bottom")),
        ([(0.9, 5.3), (0.9, 4.7), (0.1, 5.3)], ("left", "top")),
    ],
)
def test_the_name_of_a_line_leaves_values_free(values, place):
    """Names stand above (their bottom at the line) or below it, at one of its ends."""
    axis = MatplotlibFigure().subplots()
    axis.set(xlim=(0, 1), ylim=(0, 10))
    panel = Panel(axis)
    panel.rule(5.0, "teacher 5", TEACHER)
    for x, y in values:
        panel.tooltip(x, y, "", {})
    panel.name_rules()
    (name,) = axis.texts
    assert (name.get_ha(), name.get_va()) == place


def test_students_without_parameters_stand_apart(tmp_path):
    """They are at no student's size: left of all of them, with a tick of their own."""
    records = grid(arms=("clean",))
    pca = record("teacher_pca:8")
    pca["student"] |= {"total": 0}
    found = figures(tmp_path / "run", [*records, pca])["rank"]
    axis = MatplotlibFigure().subplots()
    found.panels[0][1](panel := Panel(axis))
    places = {text.split(":")[0] + text.split(":")[1][:2]: x for x, _, text, _ in panel.tooltips}
    assert places["teacher_pca8"] < 0.8 * places["width1"] < places["width4"]
    assert axis.get_xticklabels()[0].get_text() == "none"
    assert "Students without parameters (teacher_pca) stand apart" in found.caption
    assert "apart" not in figures(tmp_path / "sized", records)["rank"].caption


def drawn_axis(figure, panel=0):
    axis = MatplotlibFigure().subplots()
    figure.panels[panel][1](Panel(axis))
    return axis


@pytest.mark.parametrize("values", [(-0.02, -0.03, -0.04), (0.5, -0.2, -0.4), (0.5, 0.3, 0.2)])
def test_curves_below_zero_are_inside_their_panels(tmp_path, values):
    records = [record(seed=seed) for seed in range(2)]
    for one in records:
        for row, epoch, value in zip(
            one["observations"]["rows"], one["epochs"], values, strict=True
        ):
            row["values"]["cosine_to_teacher"] = epoch["loss"] = value
    found = figures(tmp_path / "r", records)
    for name, panel in (("curves", 1), ("loss", 0)):
        low, high = drawn_axis(found[name], panel).get_ylim()
        assert low < min(*values, 1e-9)
        assert max(0, *values) <= high
        assert low == 0 or min(values) < 0


def test_a_loss_is_named_by_its_own_seed_where_another_has_none(tmp_path):
    records = [record(seed=seed) for seed in range(3)]
    records[0]["epochs"] = []
    found = tooltips(figures(tmp_path / "r", records)["loss"])
    assert [text.partition(":1, ")[2].split(":")[0] for text in found] == ["seed 1", "seed 2"]


def test_arms_of_one_student_do_not_cover_each_other(tmp_path):
    """With colours for students, arms have places and markers, which the legend explains."""
    material = material_of(load(make_run(tmp_path / "r", grid())), "student")
    for name in ("glance", "rank"):
        figure = figures_of(material)[name]
        means = [line for line in drawn_axis(figure).lines if line.get_markersize() == 8]
        looks = [(line.get_color(), line.get_marker()) for line in means]
        assert len({float(line.get_xdata()[0]) for line in means}) == len(set(looks)) == 4
        explained = {
            entry: look.get("marker") for entry, look in legend_of(figure, material.compared)
        }
        assert {explained["clean"], explained["noise:0.1"]} == {marker for _, marker in looks}


def test_a_mean_curve_has_the_epochs_that_all_seeds_have():
    """With one seed less its mean would jump from 10 to 20 and back."""
    low = np.array([[1.0, 10.0], [3.0, 10.0]])
    high = np.array([[1.0, 20.0], [2.0, 20.0], [3.0, 18.0], [3.0, 22.0]])
    assert mean_curve([low, high]).tolist() == [[1.0, 15.0], [3.0, 15.0]]
    assert len(mean_curve([low[:1], high[1:]])) == 0
    assert len(mean_curve([])) == 0
