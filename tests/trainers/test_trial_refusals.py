"""What a trial refuses, and how: both values, one line, nothing begun."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.building.request import Request
from sweep.analysis.frame import DIVERGENCE
from trainers import trial
from trainers.engines import choose_device
from trainers.engines.launch import UNANSWERED
from trainers.inputs import mismatch, resolve, source_of
from trainers.objectives import OBJECTIVES
from trainers.objectives.base import Objective
from trainers.probes import check_arms
from trainers.results.folder import trial_folder
from trainers.runner import run_trial
from trainers.training.checkpoint import Checkpoints
from trainers.training.divergence import DivergedError
from trainers.trial import main


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "cifar10"}, "dataset: the bank {} has 'digits', the trial needs 'cifar10'"),
        ({"teacher": "other"}, "teacher: the bank {} has 'embedded', the trial needs 'other'"),
        ({"views": 3}, "views: the bank {} has 2 of arm noise:0.1, the trial needs 3"),
        ({"data_seed": 1}, "data_seed: the bank {} has 0, the trial needs 1"),
        ({"train_samples": 100}, "train_samples: the bank {} has 200, the trial needs 100"),
        ({"test_samples": None}, "test_samples: the bank {} has 60, the trial needs None"),
        ({"image_size": 16}, "image_size: the bank {} has 32, the trial needs 16"),
        ({"arm": "noise:0.3"}, "arm `noise:0.3` is not in these shards' train split, which has"),
        ({"teacher_dim": 768}, "teacher_dim: the bank {} has 512, the trial needs 768"),
        ({"teacher_size": 224}, "teacher_size: the bank {} has 32, the trial needs 224"),
        ({"teacher_sha256": "00112233"}, "teacher_sha256: the bank {} has '"),
        ({"batch_size": 256}, "batch_size: 256 is more than the 200 train samples"),
    ],
)
def test_mismatches_are_refused_with_both_values(bank, make, tmp_path, change, said):
    config = make(**change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        run_trial(config, bank, str(tmp_path))
    assert said.format(bank) in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert said.format(bank) in (mismatch(config, load_manifest(bank), bank) or "")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"epochs": None, "duration": "5 samples"}, "duration: `5 samples`"),
        ({"epochs": None, "duration": "0.5 epochs", "batch_size": 150}, "duration: `0.5 epochs`"),
        ({"epochs": 2, "warmup": "2 epochs"}, "warmup: `2 epochs` is 6 steps"),
        ({"curve_every": "0 steps"}, "curve_every: 0 steps is less than a step"),
        # The bank has 200 samples, the first two classes about 40 of them.
        ({"epochs": None, "duration": "0.5 epochs", "classes": 2, "batch_size": 35}, "0.5 epochs"),
    ],
)
def test_a_trial_without_a_step_is_refused(bank, make, tmp_path, change, fault):
    with pytest.raises(ValueError, match=fault):
        run_trial(make(**change), bank, str(tmp_path))
    assert {path.parent.name for path in tmp_path.rglob("*.*")} <= {"lease", "journal"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"adapt_arms": ["fourier:2:0"]}, r"^adapt_arms: fourier:2:0: .*choose at most 1$"),
        ({"test_arms": ["fourier:1:0", "fourier:0:-1.5"]}, r"^test_arms: fourier:0:-1\.5: "),
    ],
)
def test_arms_that_the_input_cannot_show_are_refused_before_training(
    bank, make, tmp_path, change, fault
):
    with pytest.raises(ValueError, match=fault):
        run_trial(make(**change), bank, str(tmp_path))
    assert not list(tmp_path.rglob("checkpoints"))
    for fine in ({"student": "teacher_pca:4"}, {"probes": ["linear"]}):  # never given such images
        check_arms(resolve(make(**change, **fine), bank))


def test_bands_that_a_small_input_lacks_are_refused(bank, make):
    own = load_manifest(bank)
    small = own.plan.dataset.model_copy(update={"image_size": 9})
    resized = own.model_copy(update={"plan": own.plan.model_copy(update={"dataset": small})})
    inputs = resolve(make(image_size=9, test_arms=["bands"]), bank, resized)
    with pytest.raises(ValueError, match=r"^test_arms: band_noise:5: .*9x9 pixels has no freq"):
        check_arms(inputs)
    trained = replace(inputs, config=make(image_size=9, arm="band_noise:5"))
    with pytest.raises(ValueError, match=r"^arm: band_noise:5: .*9x9 pixels has no freq"):
        trained.load(choose_device("cpu"))
    enlarged = make(image_size=9, test_arms=["bands"], input="teacher")
    check_arms(resolve(enlarged, bank, resized))


def test_another_recipe_than_that_of_the_code_is_refused(bank, make, tmp_path):
    with pytest.raises(ValueError, match="recipe: 2, but this code trains by recipe 1"):
        run_trial(make(recipe=2), bank, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_bank_of_a_requested_size_is_not_one_of_the_data_sets_own(bank, make):
    own = load_manifest(bank)
    small = own.plan.dataset.model_copy(update={"image_size": 16})
    resized = own.model_copy(update={"plan": own.plan.model_copy(update={"dataset": small})})
    needed = "image_size: the bank x has 16, the trial needs 32"
    assert mismatch(make(), resized, "x") == needed  # whatever size was requested of an older bank
    assert mismatch(make(image_size=16), resized, "x") is None
    assert mismatch(make(image_size=32), own, "x") is None


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
    assert mismatch(pinned, load_manifest(bank), bank) is None
    assert run_trial(pinned, bank, root) == result


def test_an_arm_that_another_version_drew_is_refused(bank, make):
    manifest = load_manifest(bank)
    text = manifest.model_dump_json().replace('"noise_seed"', '"noise_key"')
    other = type(manifest).model_validate_json(text)
    with pytest.raises(ValueError, match=r"^arm: .*noise_key"):
        resolve(make(), bank, other)


@pytest.mark.thorough
def test_a_checkpoint_from_other_shards_is_refused(done, bank, make, tmp_path):
    config, _, result, _ = done

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path), stop, save_seconds=0)
    state = max(tmp_path.glob("trials/*/checkpoints/*/state.json"))
    owner = json.loads(state.read_text())["owner"]
    found = Checkpoints(str(state.parent.parent), owner | {"source": "0" * 64})
    with pytest.raises(ValueError, match="source") as caught:
        found.latest()
    assert "\n" not in str(caught.value)
    seen = []
    assert run_trial(config, bank, str(tmp_path), seen.append).metrics == result.metrics
    assert len(seen) == 1


def test_no_bank_at_all(make, tmp_path):
    with pytest.raises(ValueError, match=r"manifest.json is missing"):
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
    assert run_trial(config, str(tmp_path), root).id == config.identity
    result = Path(trial_folder(root, config)) / "result.json"
    whole = result.read_text()
    try:
        result.write_text(json.dumps(json.loads(whole) | {"source": "f" * 64}))
        with pytest.raises(ValueError, match=r"f{16}"):
            run_trial(config, bank, root)
        result.write_text(whole[:100])
        with pytest.raises(ValueError, match=r"result.json"):
            run_trial(config, bank, root)
    finally:
        result.write_text(whole)


@pytest.mark.parametrize("name", ["cdua", "meta", "cuda:", "cuda:99", "mps"])
def test_devices_that_are_not_there(name):
    with pytest.raises(ValueError, match=f"device `{name}`"):
        choose_device(name)


def test_the_commands_errors_are_one_line(bank, tmp_path, capsys):
    file = tmp_path / "trial.yaml"
    file.write_text("dataset: digits\nteacher: embedded\nstudent: width:1\nlrr: 1.0e-3\n")
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: unknown key `lrr`; did you mean `lr`?")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--save-seconds", "nan", "nan; expected a finite number, at least 0"),
        ("--time-limit", "nan", "nan; expected a finite number above 0"),
        ("--time-limit", "-1", "-1; expected a finite number above 0"),
    ],
)
def test_seconds_that_no_clock_has_are_refused(bank, capsys, option, value, said):
    with pytest.raises(SystemExit) as caught:
        main(["trial.yaml", "--bank", bank, f"{option}={value}"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: argument {option}: {said}; see")


def test_divergence_is_one_line_and_its_own_code(bank, make, tmp_path, capsys, monkeypatch):
    diverging = Objective(lambda x_BD, y_BD: x_BD.sum() * math.nan)
    monkeypatch.setitem(OBJECTIVES, "cosine", diverging)
    file = tmp_path / "trial.yaml"
    file.write_text(json.dumps(make().model_dump(mode="json")))
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank, "--out", str(tmp_path / "runs")])
    assert caught.value.code == 3
    said = capsys.readouterr().err.splitlines()
    start, end = said[-1].split(" on 64 samples (`digit/")
    assert start == "error: diverged at step 1 (epoch 1): the loss is nan"
    assert end.endswith(", ...); try a smaller lr")
    assert not list(tmp_path.rglob("result.json"))


LARGE = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e6, "epochs": None, "probes": ("spectrum",)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"duration": "2 steps"},
            r"step 2 \(epoch 1\): an output .* \(`digit/\d+`\); try a smaller lr",
        ),
        (
            {"duration": "9 steps", "curve_every": "1 steps"},
            r"step 2 \(epoch 1\): an output of the",
        ),
        ({"duration": "9 steps", "probe_at": ["2 steps"]}, r"step 2 \(epoch 1\): an output of the"),
        ({"duration": "3 steps"}, r"step 3 \(epoch 1\): the loss is nan"),
        (
            {"duration": "3 steps", "objective": "theia"},
            r"step 3 \(epoch 1\): a weight or a buffer",
        ),
    ],
)
def test_what_the_last_step_has_spoilt_is_divergence(bank, make, tmp_path, change, said):
    """A loss is computed before its step: after the last one no loss shows what it has done."""
    config = make(**LARGE | {"objective": "mse"} | change)
    with pytest.raises(DivergedError, match="^diverged at " + said) as caught:
        run_trial(config, bank, str(tmp_path), save_seconds=0)
    assert DIVERGENCE.match(str(caught.value))
    assert not list(tmp_path.rglob("step-00000003*"))
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("out", "error", "status"),
    [
        ("s3://bucket/run", OSError("s3://bucket/run: SlowDown"), UNANSWERED),
        ("s3://bucket/run", PermissionError("s3://bucket/run: 403"), 2),
        ("run", OSError("run: no space"), 2),
    ],
)
def test_a_store_that_does_not_answer_has_a_status_of_its_own(
    make, tmp_path, capsys, monkeypatch, out, error, status
):
    """A sweep begins a gang again whose rank ends with it, as it does a trial of one rank."""

    def run_trial(*arguments, **how):
        raise error

    monkeypatch.setattr(trial, "run_trial", run_trial)
    monkeypatch.setattr("sys.stdin", io.StringIO(make().model_dump_json()))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as caught:
        main(["-", "--bank", "bank", "--out", out])
    assert caught.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"
