"""One trial, whole: its record, its refusals, its repeatability, in process and out of it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from shards.arms import make_arm
from shards.build import build
from shards.reader import load_manifest
from shards.request import Request
from shards.splits import load_splits
from trainers.checkpoint import Checkpoints
from trainers.data import Data
from trainers.engines import choose_device
from trainers.measure import embed
from trainers.objectives import OBJECTIVES
from trainers.students import build_student, count_parameters, describe, load_student
from trainers.trial import check_bank, finished, main, run_trial, source_of, trial_place

ROOT = Path(__file__).parents[2]
KEYS = {
    "format", "id", "config", "source", "weights_sha256", "student", "data", "metrics", "teacher",
    "arrays", "undefined", "curve", "environment",
}  # fmt: skip


def strict_json(path):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def done(bank, make, tmp_path_factory):
    """A finished trial of two epochs: (config, root, result, what was reported)."""
    root, seen = str(tmp_path_factory.mktemp("runs")), []
    config = make(epochs=2)
    return config, root, run_trial(config, bank, root, seen.append), seen


def test_the_record(done, make):
    config, root, result, seen = done
    assert set(result) == KEYS
    assert result["id"] == config.identity
    assert make(**result["config"]) == config
    assert seen == result["curve"]
    assert [row["epoch"] for row in seen] == [1, 2]
    assert strict_json(Path(trial_place(root, config)) / "result.json") == result
    assert result["undefined"] == []
    names = {name.removeprefix("test/") for name in result["metrics"]}
    assert names == {name.removeprefix("teacher/") for name in result["teacher"]}
    assert {"linear/accuracy", "noise/pixel/0.1/accuracy", "rank/effective"} <= names
    for value in [*result["metrics"].values(), *result["teacher"].values()]:
        assert np.isfinite(value)
    assert set(result["arrays"]) == {"test/spectrum", "teacher/spectrum"}
    assert result["data"] == {
        "train": 200, "test": 60, "classes": 10, "chance": 0.1,
        "dim": len(result["arrays"]["test/spectrum"]), "views_per_sample": 2,
    }  # fmt: skip
    assert result["environment"]["threads"] == 1
    assert result["teacher"]["teacher/alignment"] == 0
    assert result["metrics"]["test/linear/accuracy"] > 0.2


def test_the_students_size_is_exact(done):
    config, _, result, _ = done
    dim, size = result["data"]["dim"], result["student"]["image_size"]
    count = count_parameters(build_student(config.student, dim, size, 0))
    student = result["student"]
    assert (student["trunk"], student["head"], student["total"]) == (
        count.trunk,
        count.head,
        count.total,
    )
    assert count.total == 23_808 + 1025 * 512 + 513 * dim
    assert student["macs"] == describe("width:1", dim, size).macs


def test_the_same_again_trains_nothing(done, bank):
    config, root, result, _ = done
    place = Path(trial_place(root, config))
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}

    def never(values):
        raise AssertionError("trained again")

    assert run_trial(config, bank, root, never) == result
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before
    assert not (place / "checkpoints").exists()


def test_two_fresh_places_agree_bitwise(done, bank, tmp_path):
    config, root, result, _ = done
    torch.manual_seed(99)
    again = run_trial(config, bank, str(tmp_path))
    for key in ("metrics", "teacher", "arrays", "student"):
        assert again[key] == result[key]
    one, other = (Path(trial_place(r, config)) / "student" for r in (root, str(tmp_path)))
    for name in ("student.safetensors", "student.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_streamed_it_gives_the_same_bytes(done, bank, tmp_path):
    config, root, result, _ = done
    again = run_trial(config, bank, str(tmp_path), reading="streaming")
    assert again["metrics"] == result["metrics"]
    one, other = (Path(trial_place(r, config)) / "student" for r in (root, str(tmp_path)))
    name = "student.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()


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
    alone, together = (run_trial(config, b, str(tmp_path / b[-4:])) for b in (bank, both))
    assert together["metrics"] == alone["metrics"]
    assert together["source"] == alone["source"]
    assert source_of(config, manifest) == alone["source"]
    result = run_trial(make(teacher=other, probes=("spectrum",)), both, str(tmp_path / "other"))
    assert result["data"]["dim"] == load_manifest(both).plan.teachers[0].dim != 512
    assert result["weights_sha256"] != alone["weights_sha256"]


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
    assert again["metrics"] == result["metrics"]
    assert [row["loss"] for row in again["curve"]] == [row["loss"] for row in result["curve"]]


def test_the_saved_student_gives_the_measured_embeddings(done, bank):
    config, root, result, _ = done
    student = load_student(Path(trial_place(root, config)) / "student")
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "test", ("clean",))["clean"]
    preprocess = manifest.plan.teachers[0].preprocess.native(result["student"]["image_size"])
    data = Data(split, make_arm("clean"), preprocess, torch.device("cpu"))
    x_ND = embed(student, data, 0).astype(np.float64)
    y_ND = split.embedding_NVD[:, 0].astype(np.float64)
    y_ND /= np.linalg.norm(y_ND, axis=1, keepdims=True)
    cosine = float(np.mean(np.sum(x_ND * y_ND, axis=1)))
    assert cosine == pytest.approx(result["metrics"]["test/cosine_to_teacher"], abs=1e-7)
    s = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2
    found = s / s.sum()
    assert found[:5] == pytest.approx(result["arrays"]["test/spectrum"][:5], abs=1e-7)


def test_without_epochs_the_untrained_student_is_measured(bank, make, tmp_path):
    result = run_trial(make(epochs=0, probes=("linear",)), bank, str(tmp_path))
    assert result["curve"] == []
    assert set(result["metrics"]) == {"test/linear/accuracy"}


def test_the_teachers_own_input_is_another_student(bank, make, tmp_path):
    config = make(input="teacher", probes=("linear",), epochs=1)
    result = run_trial(config, bank, str(tmp_path))
    assert result["student"]["image_size"] == load_manifest(bank).plan.teachers[0].preprocess.size


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "cifar10"}, "dataset: the shards in {} have 'digits', asked for 'cifar10'"),
        ({"teacher": "other"}, "teacher: the shards in {} have 'embedded', asked for 'other'"),
        ({"views": 3}, "views: the shards in {} have 2 of arm noise:0.1, asked for 3"),
        ({"data_seed": 1}, "data_seed: the shards in {} have 0, asked for 1"),
        ({"train_samples": 100}, "train_samples: the shards in {} have 200, asked for 100"),
        ({"test_samples": None}, "test_samples: the shards in {} have 60, asked for None"),
        ({"image_size": 16}, "image_size: the shards in {} have 32, asked for 16"),
        ({"arm": "noise:0.3"}, "arm `noise:0.3` is not in these shards' train split, which has"),
        ({"teacher_dim": 768}, "teacher_dim: the shards in {} have 512, asked for 768"),
        ({"teacher_size": 224}, "teacher_size: the shards in {} have 32, asked for 224"),
        ({"teacher_sha256": "00112233"}, "teacher_sha256: the shards in {} have '"),
        ({"batch_size": 256}, "batch_size: 256 is more than the 200 train samples"),
    ],
)
def test_mismatches_are_refused_with_both_values(bank, make, tmp_path, change, said):
    config = make(**change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        run_trial(config, bank, str(tmp_path))
    assert said.format(bank) in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"asked for|is not in|is more than"):
        check_bank(config, load_manifest(bank), bank)


def test_pins_that_agree_change_nothing(done, bank, make):
    config, root, result, _ = done
    teacher = load_manifest(bank).plan.teachers[0]
    pinned = make(
        epochs=2,
        teacher_sha256=teacher.weights_sha256[:12],
        teacher_dim=teacher.dim,
        teacher_size=teacher.preprocess.size,
    )
    assert pinned.identity == config.identity
    check_bank(pinned, load_manifest(bank), bank)
    assert run_trial(pinned, bank, root) == result


def test_an_arm_that_another_version_drew_is_refused(bank, make):
    manifest = load_manifest(bank)
    text = manifest.model_dump_json().replace('"noise_seed"', '"noise_key"')
    other = type(manifest).model_validate_json(text)
    with pytest.raises(ValueError, match=r"arm: the shards .*noise_key.* asked for .*noise_seed"):
        check_bank(make(), other, bank)


def test_a_checkpoint_from_other_shards_is_passed_over(done, bank, make, tmp_path, capfd):
    config, _, result, _ = done

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path), stop, save_seconds=0)
    (state,) = tmp_path.glob("trials/*/checkpoints/*/state.json")
    owner = json.loads(state.read_text())["owner"]
    found = Checkpoints(str(state.parent.parent), owner.replace(" on ", " on 0"))
    assert found.latest() is None
    assert "owner is" in capfd.readouterr().err
    seen = []
    assert run_trial(config, bank, str(tmp_path), seen.append)["metrics"] == result["metrics"]
    assert len(seen) == 1


def test_no_bank_at_all(make, tmp_path):
    with pytest.raises(ValueError, match=r"manifest.json is missing: the build did not finish"):
        run_trial(make(), str(tmp_path / "nothing"), str(tmp_path / "runs"))


def test_a_finished_trial_is_refused_for_another_bank(done, bank, make, tmp_path):
    config, root, _, _ = done
    request = Request(
        dataset="digits", teachers=("embedded",), arms=("noise:0.1",), views=2, seed=0,
        train_samples=200, test_samples=60,
    )  # fmt: skip
    build(request, str(tmp_path))  # without the arms that this trial does not read
    manifest = load_manifest(str(tmp_path))
    assert source_of(config, manifest) == source_of(config, load_manifest(bank))
    assert run_trial(config, str(tmp_path), root)["id"] == config.identity
    result = Path(trial_place(root, config)) / "result.json"
    whole = result.read_text()
    try:
        result.write_text(json.dumps(json.loads(whole) | {"source": "f" * 64}))
        with pytest.raises(ValueError, match=r"finished on other .* \(f{16}\) .*choose another"):
            run_trial(config, bank, root)
        result.write_text(whole[:100])
        with pytest.raises(ValueError, match=r"result.json: not JSON .*; delete it to run"):
            run_trial(config, bank, root)
    finally:
        result.write_text(whole)


def test_measures_without_a_value_are_named_and_left_out(bank, make, tmp_path, monkeypatch):
    from trainers.probes import PROBES

    def half(bank):
        yield "half/nan", float("nan")
        yield "half/one", 1.0
        yield "half/curve", [1.0, float("inf")]

    monkeypatch.setitem(PROBES, "linear", half)
    config = make(probes=("linear",), epochs=0)
    result = run_trial(config, bank, str(tmp_path))
    assert result["metrics"] == {"test/half/one": 1.0}
    assert result["teacher"] == {"teacher/half/one": 1.0}
    assert result["arrays"] == {}
    assert result["undefined"] == [
        "test/half/nan", "test/half/curve", "teacher/half/nan", "teacher/half/curve",
    ]  # fmt: skip
    for file in tmp_path.rglob("*.json"):
        strict_json(file)
    assert run_trial(config, bank, str(tmp_path)) == result


@pytest.mark.parametrize("name", ["cdua", "meta", "cuda:", "cuda:99", "mps"])
def test_devices_that_are_not_there(name):
    with pytest.raises(ValueError, match=f"device `{name}`"):
        choose_device(name)


# ---- the command ----

WATCH = """
import json, runpy, sys
out, sys.argv = sys.argv[1], ["trial", *sys.argv[2:]]
try:
    runpy.run_module("trainers.trial", run_name="__main__", alter_sys=True)
finally:
    heavy = {"ray", "mlflow", "open_clip", "timm", "deepspeed"}
    found = sorted({m.split(".")[0] for m in sys.modules} & heavy)
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
    assert "test/linear/accuracy" in ended.stdout
    assert json.loads((tmp_path / "modules.json").read_text()) == [[], 1]
    file = Path(trial_place(str(tmp_path / "runs"), config)) / "result.json"
    there = strict_json(file)
    for key in ("metrics", "teacher", "arrays"):
        assert json.dumps(there[key]) == json.dumps(result[key], sort_keys=True)


def test_the_commands_errors_are_one_line(bank, tmp_path, capsys):
    file = tmp_path / "trial.yaml"
    file.write_text("dataset: digits\nteacher: embedded\nstudent: width:1\nlrr: 1.0e-3\n")
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: unknown key `lrr`; did you mean `lr`?")
    assert said.count("\n") == 1


def test_divergence_is_one_line_and_its_own_code(bank, make, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "cosine", lambda x_BD, y_BD, knobs: x_BD.sum() * math.nan)
    file = tmp_path / "trial.yaml"
    file.write_text(json.dumps(make().model_dump(mode="json")))
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank, "--out", str(tmp_path / "runs")])
    assert caught.value.code == 3
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == ("error: diverged at step 1 (epoch 1): the loss is nan; try a smaller lr")
    assert not list(tmp_path.rglob("result.json"))
