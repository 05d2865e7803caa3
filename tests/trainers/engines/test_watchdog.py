"""A process whose step does not end, as it waits for others or is stuck, says so and ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers.engines.launch import free_port
from trainers.engines.watchdog import LIMIT_VARIABLE, STUCK, Watchdog, process_group_timeout

ROOT = Path(__file__).parents[3]


def watched(limit, operation):
    """What a watchdog said of an operation."""
    said = []
    watchdog = Watchdog(limit, said.append)
    watchdog.start()
    operation(watchdog)
    watchdog.stop()
    return said


def test_it_names_the_operation_and_the_remedy():
    def wait(watchdog):
        with watchdog.during("gather"):
            time.sleep(1.5)

    said = watched(0.5, wait)
    assert said == [
        "waited 0.5 s for the other ranks (in gather): one of them is stuck; "
        "DISTIL_STUCK_SECONDS sets the limit"
    ]


def test_many_short_waits_are_none():
    def wait(watchdog):
        for _ in range(15):
            with watchdog.during("gather"):
                time.sleep(0.1)
        time.sleep(1.0)  # at work by itself

    assert watched(0.8, wait) == []


def test_the_limit_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "90")
    assert Watchdog().limit == 90
    assert process_group_timeout().total_seconds() > 90


@pytest.mark.parametrize("text", ["-1", "0", "soon", "nan", "inf", "1e300"])
def test_a_limit_that_no_clock_has_is_refused_with_its_variable(monkeypatch, text):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    said = (
        f"^DISTIL_STUCK_SECONDS: `{text}` is not a number of seconds above 0 and at most 1e\\+09$"
    )
    for reads in (Watchdog, process_group_timeout):
        with pytest.raises(ValueError, match=said):
            reads()


RANK = """
import sys, time
import torch
from trainers.engines import ENGINES

with ENGINES["ddp"](torch.device("cpu")) as engine:
    engine.broadcast(1)
    print("met", flush=True)
    for _ in range(1000):
        engine.broadcast(1)
        time.sleep(0.1)
"""


@pytest.mark.faults
def test_without_a_launcher_the_peers_of_a_stuck_rank_end_by_themselves():
    """As under torchrun: nobody watches but the ranks."""
    base = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_PORT": str(free_port())}
    base |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", LIMIT_VARIABLE: "10"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            cwd=ROOT,
            env=base | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "met\n"
        ranks[1].send_signal(signal.SIGSTOP)
        _, said = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert ranks[0].returncode == STUCK
    assert said.splitlines()[-1].startswith("error: waited 10 s for the other ranks (in broadcast)")


ALONE = """
import time
import torch
from trainers.engines import ENGINES

with ENGINES["single"](torch.device("cpu")) as engine:
    with engine.watched("the loss"):
        time.sleep(60)
"""


@pytest.mark.faults
def test_a_step_over_its_time_limit_ends_a_trial_of_one_rank():
    """To a sweep that is the death of the trial's process, so the trial is tried again."""
    env = os.environ | {"PYTHONPATH": str(ROOT), LIMIT_VARIABLE: "1"}
    ran = subprocess.run(
        [sys.executable, "-c", ALONE], check=False, env=env, capture_output=True, text=True
    )
    assert ran.returncode == STUCK
    assert ran.stderr == (
        "error: waited 1 s for a step to go on (in the loss): the device or a library is stuck; "
        "DISTIL_STUCK_SECONDS sets the limit\n"
    )
