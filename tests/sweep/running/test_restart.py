"""What a command does when Ray has died under it, or at a second Ctrl-C; without Ray."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from sweep.running import health
from sweep.running.restart import MOST, SINCE, TRIES
from sweep.running.suspended import Suspended

pytestmark = pytest.mark.faults

PROGRAM = """
import os, subprocess, sys
from sweep.running import restart
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, restart.began_at(), *sys.argv[1:], flush=True)
assert restart.SINCE not in os.environ
restart.{call}
"""


def ended(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[list[str]], list[str]]:
    """(exit status, what each start printed, lines of standard error) of a program."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{call}", call))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.delenv(TRIES, raising=False)
    monkeypatch.delenv(SINCE, raising=False)
    ran = subprocess.run(
        [sys.executable, str(program), "--grid", "demo"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    starts = [line.split() for line in ran.stdout.splitlines()]
    for _, child, _, *arguments in starts:
        assert not psutil.pid_exists(int(child))
        assert arguments == ["--grid", "demo"]
    return ran.returncode, starts, ran.stderr.split("\n")


def test_the_command_of_a_cluster_whose_head_died_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = ended("leave_command('control process at h:1')", tmp_path, monkeypatch)
    assert code == 1
    line = "error: Ray has died (control process at h:1); run the same command again to continue"
    assert said == ["", line, ""]


def test_the_command_of_a_local_ray_starts_again_in_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, starts, said = ended("restart_command('raylet')", tmp_path, monkeypatch)
    assert code == 1  # it gives up
    assert len(starts) == MOST + 1
    assert len({process for process, *_ in starts}) == 1
    assert len({since for _, _, since, *_ in starts}) == 1  # a deadline counts from the first
    assert sum("has died; starting another Ray and going on" in line for line in said) == MOST
    assert f"(raylet, after {MOST} restarts)" in said[-2]


def test_a_second_ctrl_c_ends_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = ended("end_command()", tmp_path, monkeypatch)
    assert (code, said) == (130, ["", "interrupted; run the same command again to continue", ""])


def test_the_head_dies_and_the_driver_notices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address answers at first, then no more."""
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        address = f"127.0.0.1:{head.getsockname()[1]}"
        node: Any = SimpleNamespace(raylet_socket_name="/of/no/raylet", all_processes={})
        context = SimpleNamespace(gcs_address=address)
        monkeypatch.setattr(health.worker, "_global_node", node)
        monkeypatch.setattr(health.ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(health, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(health, "SILENT_SECONDS", 0.5)
        dead: list[str] = []
        looks: list[float] = []
        with health.watched(dead.append, lambda: looks.append(time.monotonic())):
            time.sleep(1.5)
            assert dead == []
            assert looks
            head.close()
            end = time.monotonic() + 30
            while not dead and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.3)
    assert dead == [f"control process at {address}"]


def test_a_process_of_ray_that_stays_suspended_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one that runs, that is no process of Ray, or that goes on in time."""
    found: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("ray::TrialActor", "ray::runs", "ray::awake", "other"):
        program = tmp_path / name
        program.symlink_to(shutil.which("sleep") or "sleep")
        found[name] = subprocess.Popen([program, "60"])
    times = iter((0.0, 0.0, 50.0, 99.0, 120.0))
    try:
        suspended = Suspended(100.0, clock=lambda: next(times))
        for name, process in found.items():
            end = time.monotonic() + 30
            while psutil.Process(process.pid).name() != name and time.monotonic() < end:
                time.sleep(0.01)  # until it is that program
            if name != "ray::runs":
                process.send_signal(signal.SIGSTOP)
                while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                    time.sleep(0.01)
        for _ in range(3):
            suspended.look()
            assert all(process.poll() is None for process in found.values())
            found["ray::awake"].send_signal(signal.SIGCONT)
        suspended.look()
        assert found["ray::TrialActor"].wait(30) == -signal.SIGKILL
        assert [name for name, process in found.items() if process.poll() is None] == [
            "ray::runs",
            "ray::awake",
            "other",
        ]
    finally:
        for process in found.values():
            process.kill()
            process.wait()
    (line,) = capsys.readouterr().err.splitlines()
    assert "(ray::TrialActor) was suspended for 100 s and is killed; DISTIL_SILENT_SECONDS" in line
