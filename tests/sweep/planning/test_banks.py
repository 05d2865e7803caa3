"""Which bank serves a trial: the teacher's embeddings under the test arms, or its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.datasets import needed_size
from sweep.options import parse_arguments
from sweep.planning.banks import plan_banks
from sweep.planning.calibration import write_calibration
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from sweep.run import main
from tests.calibrated import calibrated
from trainers.canonical import make_config

FIELDS = {
    "dataset": "digits",
    "teacher": "embedded",
    "train_samples": 70,
    "test_samples": 20,
    "student": "width:1",
    "test_arms": ["noise:0.1", "contrast:2"],
    "test_views": 2,
}


@pytest.fixture(scope="module")
def store_with_figures(tmp_path_factory) -> Path:
    """A store whose bank has figures of the teacher under the test arms."""
    store = tmp_path_factory.mktemp("store")
    _, (job,) = plan_banks([make_config(FIELDS)], str(store), teacher_robustness=True)
    assert job.request.test_arms == ()
    assert job.request.teacher_robustness == ("noise:0.1", "contrast:2")
    build(job.request, job.location)
    return store


def test_without_figures_embeddings_are_asked_for(tmp_path) -> None:
    _, (job,) = plan_banks([make_config(FIELDS)], str(tmp_path))
    assert job.request.test_arms == ("noise:0.1", "contrast:2")
    assert job.request.teacher_robustness == ()


@pytest.mark.parametrize(
    ("change", "served"),
    [
        ({}, True),
        ({"test_arms": ["contrast:2"]}, True),
        ({"test_views": 1}, True),
        ({"test_views": 3}, False),
        ({"test_arms": ["contrast:2", "fog:1"]}, False),
        ({"test_arms": []}, True),
        ({"classes": 5}, False),
        ({"student": "teacher_pca:8"}, False),
    ],
)
def test_a_bank_with_figures_serves_what_they_cover(
    change, served: bool, store_with_figures
) -> None:
    """Of fewer classes, or of some of its dimensions, the teacher's figures do not apply."""
    config = make_config(FIELDS | change)
    for figures in (False, True):
        places, jobs = plan_banks([config], str(store_with_figures), figures)
        assert (not jobs) == served
        assert config.identity in places


def test_one_view_of_what_does_not_vary_is_enough(tmp_path) -> None:
    config = make_config(FIELDS)
    _, (job,) = plan_banks([config], str(tmp_path))
    build(job.request, job.location)
    assert plan_banks([config], str(tmp_path)) == ({config.identity: job.location}, [])


def made_calibration(folder) -> str:
    path = str(folder / "calibration.yaml")
    write_calibration(path, calibrated(expand(load_grid("demo"))))
    return path


def test_the_flag_reaches_the_plan(tmp_path, capsys) -> None:
    assert not parse_arguments(["--grid", "demo"]).teacher_robustness
    line = ["--grid", "demo", "--out", str(tmp_path / "run"), "--dry-run", "--json"]
    line += ["--calibration", made_calibration(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--teacher-robustness"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert '"teacher_robustness": [\n     "noise:0.05"' in out
    assert '"test_arms": [],\n    "test_views": 3' in out


def test_the_data_sets_own_size_is_another_bank_than_a_requested_one(tmp_path) -> None:
    """Also where the banks are there already, whichever the store lists first."""
    sizes = [None, 16, 20, 24]
    trials = [make_config(FIELDS | {"image_size": size}) for size in sizes]
    place_of, jobs = plan_banks(trials, str(tmp_path))
    assert len(jobs) == 4
    for job in jobs:
        build(job.request, job.location)
    assert [load_manifest(job.location).requested_size for job in jobs] == sizes
    assert plan_banks(trials, str(tmp_path)) == (place_of, [])


@pytest.mark.parametrize(("requested", "needed"), [(None, 16), (16, "the data set's own")])
def test_only_its_files_say_what_the_size_of_a_folders_images_is(requested, needed) -> None:
    assert needed_size("folder:photos", None, 16, requested) == needed
    assert needed_size("folder:photos", 20, 16, requested) == 20
    assert needed_size("digits", None, 16, requested) == 32


def test_per_seed_needs_a_bank_for_each_seed(tmp_path) -> None:
    own = {"data_seed": "per_seed", "teacher_precision": "fp32"}
    trials = [make_config(FIELDS | own | {"seed": seed}) for seed in (0, 7)]
    place_of, jobs = plan_banks(trials, str(tmp_path))
    assert [job.request.seed for job in jobs] == [0, 7]
    assert [place_of[config.identity] for config in trials] == [job.location for job in jobs]
    assert {job.request.precision for job in jobs} == {"fp32"}
    (shared,) = plan_banks([make_config(FIELDS | {"seed": seed}) for seed in (0, 7)], "x")[1]
    assert (shared.request.seed, shared.request.precision) == (0, "auto")


def test_the_dry_run_lists_the_banks_of_all_seeds(tmp_path, capsys) -> None:
    line = ["--grid", "demo", "--set", "data_seed=per_seed", "--only", "student=width:1"]
    line += ["--calibration", made_calibration(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--seeds", "2", "--out", str(tmp_path / "run"), "--dry-run"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("to build: ") == 2
    assert "draws of seed 0" in shown
    assert "draws of seed 1" in shown
