"""SIGTERM, as a scheduler sends it before it takes the machine: save, exit, continue later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.trainers.small_runs import without_times
from trainers.engines.launch import PREEMPTED
from trainers.results.folder import finished, trial_folder
from trainers.runner import run_trial
from trainers.training.preemption import PreemptedError, PreemptionHandler

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.faults


def preempt_in_the_middle(config, bank, root, tmp_path):
    """Start the real command, send SIGTERM in the third epoch or later; the step it names."""
    (tmp_path / "trial.yaml").write_text(config.model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "trainers.trial", str(tmp_path / "trial.yaml")]
    command += ["--bank", bank, "--out", root, "--save-seconds", "0.1", "--device", "cpu"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    trial = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    place = Path(trial_folder(root, config)) / "checkpoints"
    end = time.monotonic() + 120
    begun = f"step-{2 * (200 // config.batch_size):08d}"
    while trial.poll() is None and time.monotonic() < end:
        if any(found.name > begun for found in place.glob("step-*")):
            break
        time.sleep(0.005)
    trial.send_signal(signal.SIGTERM)
    _, said = trial.communicate(timeout=120)
    assert trial.returncode == PREEMPTED == 4, said
    last = said.strip().splitlines()[-1]
    match = re.fullmatch(r"state saved at step (\d+); the same command again continues", last)
    assert match, said
    assert (place / f"step-{int(match[1]):08d}" / "manifest.json").exists()
    assert finished(root, config) is None
    return int(match[1])


def assert_ends_like_an_uninterrupted_one(config, bank, root, tmp_path):
    seen = []
    again = run_trial(config, bank, root, seen.append)
    whole = run_trial(config, bank, str(tmp_path / "whole"))
    assert len(seen) < len(whole.epochs)  # it went on, and did not begin again
    assert without_times(again) == without_times(whole)
    files = [Path(trial_folder(str(r), config)) for r in (root, tmp_path / "whole")]
    one, other = ((f / "student" / "student.safetensors").read_bytes() for f in files)
    assert one == other


def test_a_preempted_trial_continues(bank, make, tmp_path):
    config = make(
        epochs=25, batch_size=40, probes=("linear",), ema=0.9, optimizer="sgd", schedule="cosine"
    )
    root = str(tmp_path / "broken")
    step = preempt_in_the_middle(config, bank, root, tmp_path)
    assert 10 < step < 125
    assert_ends_like_an_uninterrupted_one(config, bank, root, tmp_path)


GANGS = [
    {"engine": "ddp", "ranks": 2, "ema": 0.5, "accumulate": 2},
    {"engine": "ddp", "ranks": 3, "optimizer": "muon"},
    {"engine": "deepspeed", "ranks": 2, "zero_stage": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize("gang", GANGS, ids=lambda gang: f"{gang['engine']}-{gang['ranks']}")
def test_preempted_ranks_continue(bank, make, tmp_path, gang):
    """Only the parent gets SIGTERM, and passes it on."""
    if gang["engine"] == "deepspeed":
        pytest.importorskip("deepspeed")
    config = make(epochs=12, batch_size=60, probes=("linear",), **gang)
    root = str(tmp_path / "broken")
    step = preempt_in_the_middle(config, bank, root, tmp_path)
    assert 6 < step < 36
    assert_ends_like_an_uninterrupted_one(config, bank, root, tmp_path)


# ---- the signal handler ----


def send_sigterm(preempted=None, error=None):
    os.kill(os.getpid(), signal.SIGTERM)
    assert preempted is None or preempted()
    if error is not None:
        raise error


def test_sigterm_raises_at_once_or_at_the_end_of_a_deferred_block():
    with PreemptionHandler() as preempted:
        assert not preempted()
        with pytest.raises(PreemptedError):
            send_sigterm()
        assert preempted()
    with (
        PreemptionHandler() as preempted,
        pytest.raises(PreemptedError, match="same com"),
        preempted.deferred(),
    ):
        send_sigterm(preempted)


def test_an_error_in_a_deferred_block_is_kept():
    with PreemptionHandler() as preempted, pytest.raises(KeyError), preempted.deferred():
        send_sigterm(preempted, KeyError("of its own"))


def test_the_previous_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionHandler():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    """Where Ray Tune runs a trial."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def body():
        with PreemptionHandler() as preempted, preempted.deferred():
            found.append((signal.getsignal(signal.SIGTERM), preempted()))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [(before, False)]
