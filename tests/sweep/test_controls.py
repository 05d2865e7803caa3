"""Grids of several parts, the grid of controls, and a sweep of controls from end to end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.frame import load
from sweep.journal.records import read_run
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid, read_grid
from sweep.planning.plan import plan_sweep
from sweep.planning.prices import read_prices
from sweep.planning.resources import Resources
from sweep.planning.settings import override
from sweep.planning.sizes import planned_steps, trial_weight
from sweep.reporting.summary import as_plain
from tests.calibrated import calibrated
from tests.sweep.reporting.trials import write_page
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig

HEAD = "fixed: {dataset: digits, teacher: embedded, student: width:1}\n"
CONTROLS = """\
name: few
fixed:
  dataset: digits
  teacher: embedded
  train_samples: 200
  test_samples: 60
  epochs: 2
  batch_size: 50
  student: width:1
  test_arms: [noise:0.1]
  test_views: 2
  curve_every: 2 steps
  curve_samples: 50
  probes: [spectrum, linear]
parts:
  - axes: {objective: [cosine, supervised, none]}
  - fixed: {student: teacher_pca:8}
  - fixed: {target: pca:8}
  - axes: {classes: [5]}
"""


def trials(text: str) -> list[TrialConfig]:
    return expand(read_grid(text, "mine.yaml", "mine"))


# ---- parts ----


def test_parts_add_to_what_is_above_and_are_not_crossed() -> None:
    text = HEAD + (
        "axes: {lr: [0.1, 0.2]}\nseeds: 2\nexclude: [{lr: 0.2, batch_size: 9}]\nparts:\n"
        "  - fixed: {epochs: 0, lr: 0.1}\n"  # untrained: whatever the lr
        "  - axes: {student: [width:2, width:4]}\n    exclude: [{student: width:4, lr: 0.1}]\n"
        "  - fixed: {student: width:2}\n"  # again, in part
    )
    found = Counter((c.student, c.epochs, c.lr) for c in trials(text))
    assert found == {
        ("width:1", 0, 0.001): 2,
        ("width:2", 5, 0.1): 2,
        ("width:2", 5, 0.2): 2,
        ("width:4", 5, 0.2): 2,
    }


def test_settings_reach_every_part() -> None:
    grid = read_grid(
        HEAD + "parts:\n  - axes: {lr: [0.1, 0.2]}\n  - fixed: {epochs: 3}\n", "x", "x"
    )
    found = expand(override(grid, ["lr=0.5", "epochs=2"], 3))
    assert {(c.lr, c.epochs, c.seed) for c in found} == {(0.5, 2, seed) for seed in range(3)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parts: {axes: {}}\n", "mine.yaml: parts: expected a list"),
        ("parts: [width:2]\n", "mine.yaml: part 1: expected {fixed: ..., axes: ...}"),
        ("parts: [{axs: {}}]\n", "part 1: unknown key `axs`; did you mean `axes`?"),
        ("parts: [{seeds: 3}]\n", "part 1: unknown key `seeds`"),
        ("parts: [{fixed: {lrr: 0.1}}]\n", "part 1: unknown field `lrr`; did you mean `lr`?"),
        ("parts: [{fixed: {lr: 0.1}}, {axes: {lr: []}}]\n", "part 2: axes.lr: 0 trials"),
        ("parts: [{exclude: [{dataset: digits}]}]\n", "part 1: 0 trials; every combination"),
        ("seeds: 9000\nparts: [{axes: {lr: [0.1, 0.2]}}]\n", "18,000 trials > limit of 10,000"),
        ("parts: [{fixed: {lr: -1.0}}]\n", "part 1: lr: Input should be greater than 0"),
    ],
)
def test_parts_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is compared below)
        trials(HEAD + text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# ---- the grid that ships ----


def test_the_controls_have_the_fixed_values_of_full() -> None:
    full = [c for c in expand(load_grid("full")) if c.arm == "clean"]
    found = expand(load_grid("controls"))
    kinds = Counter((c.objective, c.target, c.epochs, c.classes) for c in found)
    assert kinds[("cosine", "teacher", 30, None)] == 30
    assert kinds[("supervised", "labels", 30, None)] == 30
    untrained = [c for c in found if c.epochs == 0]
    assert Counter(c.student.split(":")[0] for c in untrained) == {"params": 30, "teacher_pca": 5}
    assert [kinds[("cosine", f"pca:{k}", 30, None)] for k in (8, 16, 32, 64, 128)] == [10] * 5
    assert {c.target for c in found} >= {"standardised", "phi_s", "whitened:0.0001"}
    subsets = [c for c in found if c.dataset == "cifar100"]
    assert {c.classes for c in subsets} == {10, 20, 50, 100}
    shared = ("teacher", "input", "batch_size", "lr", "test_arms", "test_views", "probes", "arm")
    for name in shared:
        assert {getattr(c, name) for c in found} == {getattr(full[0], name)}
    assert {c.epochs for c in found if c.trains} == {full[0].epochs}
    assert {c.student for c in found if c.trains} <= {c.student for c in full}


def test_the_controls_run_on_digits_too() -> None:
    settings = ["dataset=digits", "teacher=embedded", "epochs=1", "classes=5"]
    found = expand(override(load_grid("controls"), settings, 1))
    assert len(found) == 22
    assert {(c.dataset, c.classes) for c in found} == {("digits", 5)}
    assert sum(planned_steps(c) == 0 for c in found) == 8  # three untrained, five of teacher_pca


# ---- plans ----


def test_plans_count_the_steps_of_fewer_classes_and_refuse_too_many() -> None:
    least = {"dataset": "cifar100", "teacher": "embedded", "student": "width:1", "epochs": 2}
    assert planned_steps(make_config(least)) == 2 * (50_000 // 64)
    assert planned_steps(make_config(least | {"classes": 10})) == 2 * (5_000 // 64)
    assert planned_steps(make_config(least | {"epochs": None, "duration": "70 steps"})) == 70
    with pytest.raises(ValueError, match="classes: 11"):
        planned_steps(make_config(least | {"dataset": "digits", "classes": 11}))
    idle = make_config(least | {"student": "teacher_pca:8"})
    assert 0 < trial_weight(idle) < trial_weight(make_config(least))


def test_what_has_no_network_costs_nothing_in_a_plan(tmp_path: Path) -> None:
    of_it = trials(HEAD.replace("width:1", "teacher_pca:8"))
    known = calibrated(of_it)
    plan = plan_sweep(of_it, str(tmp_path), known, read_prices(None), Resources())
    (row,) = plan.trials
    assert (row.parameters, row.macs, plan.estimate.hours["training"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="teacher_pca:600"):
        calibrated(trials(HEAD.replace("width:1", "teacher_pca:600")))


# ---- end to end ----


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_of_controls(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(CONTROLS)
    ran = tools.run(tmp_path / "few.yaml", tmp_path / "run")
    assert ran.code == 0, ran.err
    records = {result.id: result for result in read_run(tmp_path / "run").results}
    configs = {config.identity: config for config in trials(CONTROLS)}
    assert records.keys() == configs.keys()
    assert len(list((tmp_path / "run" / "banks").iterdir())) == 1  # one bank serves them all
    for identity, config in configs.items():
        steps = [row.step for row in records[identity].observations.rows]
        at = [0] if config.objective == "cosine" and not config.trains else []
        whole = [0, 2, 4] if config.classes else [0, 2, 4, 6, 8]
        assert steps == (whole if config.trains else at if "pca" not in config.student else [])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("Rank against epochs") == 1
    assert "teacher_pca:8" in page
    assert write_page(tmp_path / "run").read_text() == page
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("few")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        if trial := run.data.tags.get("sweep.trial"):
            logged = client.get_metric_history(run.info.run_id, "curve/rank/effective")
            rows = records[trial].observations.rows
            kept = [(row.step, row.values["rank/effective"]) for row in rows]
            assert [(m.step, m.value) for m in logged] == kept
    rows = [row for row in as_plain(load(tmp_path / "run")) if row["kind"] == "teacher"]
    assert sorted(row["classes"] or 10 for row in rows) == [5, 10]
