"""A trial is run by one process; one that was replaced while it was suspended changes nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shards.support import lease, storage
from shards.support.lease import HeldError, LostError, ours, read_claim, take
from trainers import runner, trial
from trainers.results.folder import finished, trial_folder
from trainers.results.lease import Behalf, holder, lease_folder
from trainers.runner import run_trial

ZOMBIE = """
import sys
from trainers.canonical import load_config
from trainers.runner import run_trial

def report(values):
    print("epoch", values["step"], flush=True)
    sys.stdin.readline()  # one line an epoch: the test decides how far this process gets

run_trial(load_config(sys.argv[1]), sys.argv[2], sys.argv[3], report, save_seconds=0)
"""


@pytest.mark.faults
def test_a_process_suspended_past_its_lease_changes_nothing(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP past its lease, the trial runs elsewhere, SIGCONT."""
    config, root = make(epochs=3, probes=("spectrum",)), str(tmp_path / "run")
    spec = tmp_path / "trial.yaml"
    spec.write_text(config.model_dump_json())
    zombie = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, str(spec), bank, root],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert zombie.stdin
    assert zombie.stdout
    assert zombie.stderr
    assert zombie.stdout.readline().startswith(b"epoch")
    zombie.send_signal(signal.SIGSTOP)
    os.waitpid(zombie.pid, os.WUNTRACED)
    held = holder(root, config)
    assert held
    assert held.process.pid == zombie.pid

    monkeypatch.setattr(lease, "EXPIRES", 0.5)
    before: list[int] = []
    result = run_trial(config, bank, root, lambda values: before.append(values["epoch"]))
    assert before == [2, 3]  # from the checkpoint that the other process had left
    place = Path(trial_folder(root, config))
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in place.rglob("*") if p.is_file()}
    assert place / "result.json" in files

    zombie.send_signal(signal.SIGCONT)
    zombie.stdin.write(b"\n\n\n")
    zombie.stdin.close()
    assert zombie.wait(60) == 1
    assert b"LostError" in zombie.stderr.read()
    assert finished(root, config) == result
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in place.rglob("*") if p.is_file()}
    ended = {p: v for p, v in after.items() if p.name != "00000001.json"}  # it says "released"
    assert ended == files
    for stream in (zombie.stdout, zombie.stderr):
        stream.close()


def test_a_trial_that_another_process_runs_is_refused_and_named(
    bank: str, make: Any, tmp_path: Path
) -> None:
    config, root = make(), str(tmp_path)
    with (
        take(lease_folder(root, config), ours("trial")),
        pytest.raises(HeldError, match=rf"is run by process {os.getpid()} on .* since .*; wait"),
    ):
        run_trial(config, bank, root)
    assert not list(tmp_path.rglob("step-*"))


def test_the_same_sweep_does_not_wait_for_its_own_earlier_attempt(
    bank: str, make: Any, tmp_path: Path
) -> None:
    config, root = make(epochs=0, probes=("spectrum",)), str(tmp_path)
    first = take(lease_folder(root, config), ours("trial", "sweep 1"))
    result = run_trial(config, bank, root, behalf=Behalf("sweep 1"))
    assert finished(root, config) == result
    assert read_claim(lease_folder(root, config))[0] == 2
    with pytest.raises(LostError):
        first.check()
    assert holder(root, config) is None


def test_what_was_finished_while_the_lease_was_awaited_is_not_run_again(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = make(epochs=1, probes=("spectrum",)), str(tmp_path)
    result = run_trial(config, bank, root)
    real, looks = runner.finished, []

    def late(root: str, config: Any) -> Any:
        looks.append(config)
        return real(root, config) if len(looks) > 1 else None

    monkeypatch.setattr(runner, "finished", late)

    def never(values: Any) -> None:
        raise AssertionError("trained again")

    assert run_trial(config, bank, root, never) == result
    assert len(looks) == 2
    assert storage.names(lease_folder(root, config)) == ["00000002.json"]


def test_ranks_know_the_sweep_and_who_is_gone(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behalf, found = Behalf("sweep 2", ("holder 1", "sweep 1")), []

    def launcher(ranks: int, arguments: list[str], report: Any, stop: Any, document: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(document))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(trial, "run_trial", lambda *a, **options: found.append(options))
        with pytest.raises(SystemExit):
            trial.main(arguments)
        monkeypatch.delenv("RANK")

    with pytest.raises(RuntimeError, match=r"no result\.json"):
        run_trial(
            make(engine="ddp", ranks=2), bank, str(tmp_path), behalf=behalf, launcher=launcher
        )
    assert [options["behalf"] for options in found] == [behalf]
