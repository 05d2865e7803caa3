"""One trial, whole: its record, its refusals, its repeatability, in process and out of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from shards.arms import make_arm
from shards.bank.order import keyed_order
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.building.build import build
from shards.building.request import Request
from trainers.inputs import source_of
from trainers.probes.feature_banks import encode_view
from trainers.probes.features import unit
from trainers.results.folder import finished, trial_folder
from trainers.results.record import parse_result
from trainers.runner import run_trial
from trainers.students import build_student, describe
from trainers.students.cost import count_parameters
from trainers.students.files import load_student
from trainers.training.data import Data

ROOT = Path(__file__).parents[2]


def strict_json(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def test_a_finished_trial_has_its_whole_result(done, make):
    config, root, result, seen = done
    assert result.id == config.identity
    assert make(**result.config) == config
    assert seen == [row.model_dump() for row in result.epochs]
    assert [row["epoch"] for row in seen] == [1, 2]
    stored = strict_json(Path(trial_folder(root, config)) / "result.json")
    assert parse_result(stored) == result == finished(root, config)
    assert stored["probes"].keys() == set(config.probes)
    undefined = {name.split("/", 1)[1] for name in result.undefined}
    # 60 test images have no eigenvalue 100.
    assert {"rank/alpha", "rank/alpha/r2"} <= undefined
    # Too few train images a dimension for the rank ratio.
    ratio = {f"retained/rank/ratio{end}" for end in ("", "/low", "/high")}
    assert undefined <= {"rank/alpha", "rank/alpha/r2", "noise/pixel/half"} | ratio
    names = {name.removeprefix("test/") for name in result.metrics}
    beside = {name.removeprefix("teacher/") for name in result.teacher}
    own = {n for n in names - beside if not re.search("penultimate|refitted|recalibrated", n)}
    half = {"noise/pixel/half", "noise/pixel/half/above"}
    assert own <= half
    assert beside - names <= half
    assert "noise/pixel/0.1/refitted/accuracy" in names
    assert {"linear/paper/accuracy", "noise/pixel/0.1/accuracy", "rank/effective"} <= names
    for value in [*result.metrics.values(), *result.teacher.values()]:
        assert np.isfinite(value)
    assert {"test/spectrum", "teacher/spectrum", "test/subspace"} <= set(result.arrays)
    assert result.data.model_dump() == {
        "train": 200, "test": 60, "classes": 10, "chance": 0.1,
        "dim": len(result.arrays["test/spectrum"]), "views_per_sample": 2,
    }  # fmt: skip
    assert result.environment.threads == 1
    assert result.teacher["teacher/alignment"] == 0
    assert result.metrics["test/linear/paper/accuracy"] > 0.2


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"duration": "2 steps", "epochs": None}, 1),
        ({"duration": "1.5 epochs", "epochs": None}, 2),
        ({"epochs": 3}, 2),
        ({"arm": "clean", "epochs": 2}, 1),
    ],
)
def test_distinct_views_are_those_that_were_shown(changes, views, bank, make, tmp_path):
    config = make(**changes, probes=("spectrum",))
    result = run_trial(config, bank, str(tmp_path))
    assert result.data.views_per_sample == views


def test_the_students_size_is_exact(done):
    config, _, result, _ = done
    dim, size = result.data.dim, result.student.image_size
    count = count_parameters(build_student(config.student, dim, size, 0))
    student = result.student
    assert (student.trunk, student.head, student.total) == (
        count.trunk,
        count.head,
        count.total,
    )
    assert count.total == 23_808 + 1025 * 512 + 513 * dim
    assert student.macs == describe("width:1", dim, size).macs


def test_the_same_again_trains_nothing(done, bank):
    config, root, result, _ = done
    place = Path(trial_folder(root, config))
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}

    def never(values):
        raise AssertionError("trained again")

    assert run_trial(config, bank, root, never) == result
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before
    assert not (place / "checkpoints").exists()


def test_what_a_kill_after_the_result_left_is_removed(done, bank):
    config, root, result, _ = done
    left = Path(trial_folder(root, config)) / "checkpoints" / "step-00000001"
    left.mkdir(parents=True)
    assert run_trial(config, bank, root) == result
    assert not left.parent.exists()


def test_two_fresh_places_agree_bitwise(done, bank, tmp_path):
    config, root, result, _ = done
    torch.manual_seed(99)
    again = run_trial(config, bank, str(tmp_path))
    for key in ("metrics", "teacher", "arrays", "student"):
        assert getattr(again, key) == getattr(result, key)
    one, other = (Path(trial_folder(r, config)) / "student" for r in (root, str(tmp_path)))
    for name in ("student.safetensors", "student.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.thorough
def test_of_several_teachers_it_takes_the_one_asked_for(bank, make, tmp_path):
    """A bank of two teachers gives each trial what a bank of its teacher alone would."""
    other = "timm:test_vit.r160_in1k:none"
    manifest = load_manifest(bank)
    request = Request(
        dataset="digits", teachers=(other, "embedded"), arms=("noise:0.1", "crop_flip"), views=2,
        test_arms=("noise:0.1",), test_views=2, train_samples=200, test_samples=60,
    )  # fmt: skip
    both = str(tmp_path / "both")
    build(request, both)
    config = make(probes=("spectrum",))
    alone, together = (run_trial(config, b, str(tmp_path / Path(b).name)) for b in (bank, both))
    assert together.metrics == alone.metrics
    assert together.source == alone.source
    assert source_of(config, manifest) == alone.source
    result = run_trial(make(teacher=other, probes=("spectrum",)), both, str(tmp_path / "other"))
    assert result.data.dim == load_manifest(both).plan.teachers[0].dim != 512
    assert result.weights_sha256 != alone.weights_sha256
    beside = run_trial(make(teacher=other, probes=("spectrum",)), both, str(tmp_path / "both"))
    assert beside.teacher == result.teacher != together.teacher  # one root for both


@pytest.mark.thorough
def test_interrupted_it_gives_the_same_metrics(done, bank, tmp_path):
    config, _, result, _ = done

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path), stop, save_seconds=0)
    assert finished(str(tmp_path), config) is None
    seen = []
    again = run_trial(config, bank, str(tmp_path), seen.append, save_seconds=0)
    assert [values["epoch"] for values in seen] == [2]
    assert again.metrics == result.metrics
    assert [row.loss for row in again.epochs] == [row.loss for row in result.epochs]


def test_the_saved_student_gives_the_measured_embeddings(done, bank):
    config, root, result, _ = done
    student = load_student(Path(trial_folder(root, config)) / "student")
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "test", ("clean",))["clean"]
    preprocess = manifest.plan.teachers[0].preprocess.native(result.student.image_size)
    data = Data(split, make_arm("clean"), preprocess, torch.device("cpu"))
    x_ND = unit(encode_view(student, data, 0)).astype(np.float64)
    y_ND = split.embedding_NVD[keyed_order(split.keys), 0].astype(np.float64)
    y_ND /= np.linalg.norm(y_ND, axis=1, keepdims=True)
    cosine = float(np.mean(np.sum(x_ND * y_ND, axis=1)))
    assert cosine == pytest.approx(result.metrics["test/cosine_to_teacher"], abs=1e-7)
    s = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2
    found = s / s.sum()
    assert found[:5] == pytest.approx(result.arrays["test/spectrum"][:5], abs=1e-7)


def test_without_epochs_the_untrained_student_is_measured(bank, make, tmp_path):
    result = run_trial(make(epochs=0, probes=("linear",)), bank, str(tmp_path))
    assert result.epochs == []
    assert {name.split("/")[1] for name in result.metrics} == {"linear"}


def test_the_teachers_own_input_is_another_student(bank, make, tmp_path):
    config = make(input="teacher", probes=("linear",), epochs=1)
    result = run_trial(config, bank, str(tmp_path))
    assert result.student.image_size == load_manifest(bank).plan.teachers[0].preprocess.size


def test_measures_without_a_value_are_named_and_left_out(bank, make, tmp_path, monkeypatch):
    from trainers.probes import PROBES, Probe

    def half(bank):
        yield "half/nan", float("nan")
        yield "half/one", 1.0
        yield "half/curve", [1.0, float("inf")]

    monkeypatch.setitem(PROBES, "linear", Probe(half))
    config = make(probes=("linear",), epochs=0)
    result = run_trial(config, bank, str(tmp_path))
    assert result.metrics == {"test/half/one": 1.0}
    assert result.teacher == {"teacher/half/one": 1.0}
    assert result.arrays == {}
    assert result.undefined == [
        "teacher/half/curve", "teacher/half/nan", "test/half/curve", "test/half/nan",
    ]  # fmt: skip
    for file in tmp_path.rglob("*.json"):
        strict_json(file)
    assert run_trial(config, bank, str(tmp_path)) == result


# ---- the command ----

WATCH = """
import json, runpy, sys
out, sys.argv = sys.argv[1], ["trial", *sys.argv[2:]]
try:
    runpy.run_module("trainers.trial", run_name="__main__", alter_sys=True)
finally:
    heavy = {"ray", "mlflow", "open_clip", "timm", "deepspeed", "torch._dynamo", "sympy"}
    found = sorted(sys.modules.keys() & heavy)
    open(out, "w").write(json.dumps([found, sys.modules["torch"].get_num_threads()]))
"""


def test_the_command_alone_gives_the_same_bytes_and_stays_light(done, bank, tmp_path):
    """Another process, other OMP_NUM_THREADS: the trial's own `threads` decides."""
    config, _, result, _ = done
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", WATCH, str(tmp_path / "modules.json")]
    command += [str(tmp_path / "trial.yaml"), "--bank", bank, "--out", str(tmp_path / "runs")]
    env = os.environ | {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    ended = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "test/linear/paper/accuracy" in ended.stdout
    assert json.loads((tmp_path / "modules.json").read_text()) == [[], 1]
    file = Path(trial_folder(str(tmp_path / "runs"), config)) / "result.json"
    alone = parse_result(strict_json(file))
    assert alone.probes == result.probes
