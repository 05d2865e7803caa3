"""Several ranks as one trial: one result, and it survives what happens to them."""

import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import stdev

import psutil
import pytest
import torch

from shards.arms import make_arm
from shards.bank.order import keyed_order
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from trainers.engines.launch import PREEMPTED, RankError, free_port
from trainers.probes.feature_banks import encode_view
from trainers.probes.features import unit
from trainers.results.folder import finished, trial_folder
from trainers.runner import run_trial
from trainers.students.files import load_student
from trainers.training.data import Data
from trainers.training.divergence import DivergedError
from trainers.trial import main

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]
TWO = {"engine": "ddp", "ranks": 2, "batch_size": 50, "probes": ("linear",)}
deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def done(bank, make, tmp_path_factory):
    root, seen = str(tmp_path_factory.mktemp("ddp")), []
    fields = TWO | {"epochs": 2, "objective": "cosine+infonce", "probes": ("spectrum", "linear")}
    config = make(**fields)
    return config, root, run_trial(config, bank, root, seen.append), seen


def student_of(root, config):
    return (Path(trial_folder(str(root), config)) / "student/student.safetensors").read_bytes()


def losses_of(result):
    return [row.loss for row in result.epochs]


def command(config, bank, root, *launcher):
    file = root / "trial.yaml"
    file.write_text(config.model_dump_json())
    place = [str(file), "--bank", bank, "--out", str(root / "runs"), "--save-seconds", "0"]
    return [sys.executable, *launcher, "-m", "trainers.trial", *place]


def test_two_ranks_are_one_trial(done, bank):
    config, root, result, seen = done
    assert seen == [row.model_dump() for row in result.epochs]
    assert [row["epoch"] for row in seen] == [1, 2]
    assert result.epochs[1].loss < result.epochs[0].loss
    place = Path(trial_folder(root, config))
    left = sorted(path.name for path in place.iterdir())
    assert left == ["journal", "lease", "result.json", "student"]
    assert finished(root, config) == result
    assert run_trial(config, bank, root) == result  # starts no ranks


def test_probes_of_two_ranks_are_within_the_deviation_of_seeds_of_one(done, bank, make, tmp_path):
    """|two - one| of a seed <= the standard deviation (ddof = 1) of one process over 3 seeds."""
    config, _, result, _ = done
    fields = config.model_dump() | {"engine": "single", "ranks": 1}
    seeds = [run_trial(make(**fields | {"seed": s}), bank, str(tmp_path)) for s in range(3)]
    assert losses_of(seeds[0]) == pytest.approx(losses_of(result), rel=1e-2)
    assert seeds[0].config["ranks"] == 1
    for name in ("linear/paper/accuracy", "rank/effective", "cosine_to_teacher"):
        values = [one.metrics[f"test/{name}"] for one in seeds]
        assert abs(result.metrics[f"test/{name}"] - values[0]) <= stdev(values), name


def test_torchrun_gives_the_same(done, bank, tmp_path):
    config, _, result, _ = done
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    launcher += ("--master-port", str(free_port()))
    ended = subprocess.run(
        command(config, bank, tmp_path, *launcher),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test/linear/paper/accuracy") == 1  # one rank prints
    again = finished(str(tmp_path / "runs"), config)
    assert again.metrics == result.metrics
    assert losses_of(again) == losses_of(result)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_finished_trial_under_torchrun_is_printed_once(done, bank, monkeypatch, capsys, rank):
    config, root, _, _ = done
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = Path(root) / "trial.yaml"
    file.write_text(config.model_dump_json())
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank, "--out", root])
    assert caught.value.code == 0
    assert capsys.readouterr().out.count("test/linear/paper/accuracy") == 1 - rank


def embedded(bank, root, config):
    """Unit embeddings of the clean test images: of the student a trial left, of its teacher."""
    student = load_student(Path(trial_folder(str(root), config)) / "student")
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "test", ("clean",))["clean"]
    preprocess = manifest.plan.teachers[0].preprocess.native(manifest.plan.dataset.image_size)
    data = Data(split, make_arm("clean"), preprocess, torch.device("cpu"))
    return unit(encode_view(student, data, 0)), unit(
        split.embedding_NVD[keyed_order(split.keys), 0]
    )


@deepspeed
@pytest.mark.slow
def test_zero_3_leaves_a_plain_student(done, bank, make, tmp_path):
    config, root, result, _ = done
    split = make(
        **config.model_dump() | {"engine": "deepspeed", "zero_stage": 3, "channels_last": False}
    )
    found = run_trial(split, bank, str(tmp_path))
    assert losses_of(found) == pytest.approx(losses_of(result), rel=1e-2)
    own_ND, teacher_ND = embedded(bank, tmp_path, split)
    cosine = float((own_ND * teacher_ND).sum(1).mean())
    assert cosine == pytest.approx(found.metrics["test/cosine_to_teacher"], abs=1e-6)
    assert (own_ND * embedded(bank, root, config)[0]).sum(1).min() > 0.99


@pytest.mark.slow
def test_what_the_first_rank_cannot_observe_ends_all_as_diverged(bank, make, tmp_path):
    spoilt = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e6, "objective": "mse"}
    config = make(**TWO | spoilt | {"epochs": 3, "curve_every": "1 steps"})
    with pytest.raises(DivergedError, match=r"^diverged at step 2 \(epoch 1\): an output of the"):
        run_trial(config, bank, str(tmp_path))


# ---- what happens to ranks ----


def ranks_of(process):
    return {c.environ()["RANK"]: c for c in process.children() if "--bank" in c.cmdline()}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "rank 1 was killed by SIGKILL"),
        pytest.param(signal.SIGSTOP, "rank 1 sent no heartbeat for 5 s", marks=pytest.mark.slow),
    ],
)
def test_one_lost_rank_ends_its_peers_and_is_named(bank, make, tmp_path, monkeypatch, number, said):
    if number == signal.SIGSTOP:  # for on a busy machine a rank that works may be silent for 5 s
        monkeypatch.setenv("DISTIL_SILENT_SECONDS", "5")
    config = make(**TWO | {"epochs": 100_000})
    times = {}

    def hurt():
        times["hurt"] = time.monotonic()
        ranks_of(psutil.Process())["1"].send_signal(number)

    def report(values):
        if values["epoch"] == 2:
            threading.Thread(target=hurt).start()

    with pytest.raises(RankError, match=said) as caught:
        run_trial(config, bank, str(tmp_path), report, save_seconds=0)
    assert time.monotonic() - times["hurt"] < 30
    assert ranks_of(psutil.Process()) == {}
    assert caught.value.rank == 1
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("result.json"))
    assert list(tmp_path.rglob("step-*"))  # and what was saved is there for the next attempt


@pytest.mark.slow
@pytest.mark.faults
def test_sigterm_saves_and_another_number_of_ranks_goes_on(bank, make, tmp_path):
    """`elastic: exact`: two ranks, asked to leave, then one process: as if never disturbed."""
    fields = TWO | {"elastic": "exact", "accumulate": 2, "epochs": 30}
    config = make(**fields)
    trial = subprocess.Popen(
        command(config, bank, tmp_path),
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 120
    while not list(tmp_path.rglob("step-*")) and time.monotonic() < end:
        time.sleep(0.1)
    ranks = list(ranks_of(psutil.Process(trial.pid)).values())
    assert len(ranks) == 2
    trial.send_signal(signal.SIGTERM)
    _, said = trial.communicate(timeout=60)
    assert trial.returncode == PREEMPTED, said
    assert "state saved at step" in said.splitlines()[-1]
    assert psutil.wait_procs(ranks, timeout=1)[1] == []
    alone = make(**fields | {"engine": "single", "ranks": 1})
    assert alone.identity == config.identity
    again = run_trial(alone, bank, str(tmp_path / "runs"))
    whole = run_trial(alone, bank, str(tmp_path / "whole"))
    assert losses_of(again) == losses_of(whole)
    assert student_of(tmp_path / "runs", config) == student_of(tmp_path / "whole", alone)


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_in_the_same_order(bank, make, tmp_path):
    """`elastic: order`: two ranks, then one. The same batches, so nearly the same losses."""
    config = make(**TWO | {"elastic": "order", "epochs": 3})
    whole = run_trial(config, bank, str(tmp_path / "whole"))

    def stop(values):
        if values["epoch"] == 2:
            raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path / "runs"), stop, save_seconds=0)
    alone, seen = make(**TWO | {"elastic": "order", "epochs": 3, "ranks": 1}), []
    assert alone.identity == config.identity
    again = run_trial(alone, bank, str(tmp_path / "runs"), seen.append)
    assert [values["epoch"] for values in seen] == [3]
    assert losses_of(again)[:2] == losses_of(whole)[:2]
    assert losses_of(again) == pytest.approx(losses_of(whole), rel=1e-3)
    other = run_trial(make(**TWO | {"seed": 1, "epochs": 3}), bank, str(tmp_path / "other"))
    assert losses_of(other) != pytest.approx(losses_of(whole), rel=1e-3)  # it tells orders apart
