"""The ranks of a trial live and die together; other programs stand in for the trial."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trainers.engines import launch as module
from trainers.engines.launch import OVER_TIME, PREEMPTED, UNANSWERED, RankError, free_port, launch
from trainers.runner import run_trial
from trainers.training.divergence import DivergedError
from trainers.training.ending import TimeLimitError
from trainers.training.preemption import PreemptedError
from trainers.trial import main

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]
HEAD = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
WAIT = "time.sleep(60)"


def play(monkeypatch, script, ranks=2, report=lambda values: None, stop=lambda: False):
    monkeypatch.setattr(module, "RANK_CODE", HEAD + script)
    launch(ranks, [], report, stop)


def each(first, second):
    return f"if rank == 0:\n    {first}\nelse:\n    {second}\n"


def test_all_reports_arrive_even_in_one_burst(monkeypatch):
    seen = []
    script = """
if rank == 0:
    sys.stdout.write("".join('@report {"epoch": %d}\\n' % i for i in range(5000)) + "noise\\n")
    sys.stdout.write('@report {"epoch"'); sys.stdout.flush(); time.sleep(0.3)
    sys.stdout.write(': 5000}\\n')
"""
    play(monkeypatch, script, report=seen.append)
    assert [values["epoch"] for values in seen] == list(range(5001))


ENDS = [
    (WAIT, "sys.exit('error: lr is odd')", "rank 1 ended with 1: lr is odd", 1),
    (WAIT, "os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL: no message", -9),
    ("sys.exit(7)", WAIT, "rank 0 ended with 7: no message", 7),
    # A peer's connection breaks before the process that failed has ended.
    (
        "sys.exit('Connection reset')",
        "time.sleep(0.2); os.kill(os.getpid(), 11)",
        "rank 1 .*SEGV",
        -11,
    ),
    (
        "sys.exit('Connection closed')",
        "time.sleep(0.2); sys.exit('no file')",
        "rank 1 .*no file",
        1,
    ),
    ("time.sleep(1); sys.exit(4)", "sys.exit('no file')", "rank 1 ended with 1: no file", 1),
]


@pytest.mark.parametrize(("first", "second", "message", "code"), ENDS)
def test_the_rank_that_failed_first_is_named_soon(monkeypatch, first, second, message, code):
    start = time.monotonic()
    with pytest.raises(RankError, match=message) as caught:
        play(monkeypatch, each(first, second))
    assert caught.value.code == code
    assert time.monotonic() - start < 30


STORE = """
import torch.distributed as dist
dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, rank == 0)
"""


def test_a_port_that_another_process_took_is_retried(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(module, "free_port", lambda: ports.append(free_port()) or ports[-2])
        play(monkeypatch, STORE)
        assert len(ports) == 3
        monkeypatch.setattr(module, "free_port", lambda: taken.getsockname()[1])
        monkeypatch.setattr(module, "PORT_ATTEMPTS", 1)
        with pytest.raises(RankError, match="EADDRINUSE"):
            play(monkeypatch, each("sys.exit('code: -98, name: EADDRINUSE')", WAIT))


def test_divergence_of_the_ranks_is_divergence(bank, make, tmp_path, monkeypatch):
    text = "error: diverged at step 5 (epoch 2): the loss is nan; try a smaller lr"
    monkeypatch.setattr(
        module, "RANK_CODE", f"import sys; print({text!r}, file=sys.stderr); sys.exit(3)"
    )
    config = make(engine="ddp", ranks=2, batch_size=50)
    with pytest.raises(DivergedError, match=r"^diverged at step 5 \(epoch 2\)"):
        run_trial(config, bank, str(tmp_path))


@pytest.mark.parametrize(("code", "status"), [(UNANSWERED, UNANSWERED), (5, 1), (-9, 1)])
def test_the_commands_status_is_that_of_a_rank_whose_store_did_not_answer(
    bank, make, tmp_path, monkeypatch, capsys, code, status
):
    end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    said = "print('error: s3://bucket: SlowDown', file=sys.stderr, flush=True)"
    monkeypatch.setattr(module, "RANK_CODE", HEAD + each(f"{said}; {end}", WAIT))
    file = tmp_path / "trial.yaml"
    file.write_text(make(engine="ddp", ranks=2, batch_size=50).model_dump_json())
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank, "--out", str(tmp_path / "runs")])
    assert caught.value.code == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: rank 0 ")
    assert last.endswith(": s3://bucket: SlowDown")


# ---- heartbeats ----


@pytest.mark.faults
def test_a_suspended_rank_ends_the_others(monkeypatch):
    """SIGSTOP: the process exists, but sends no heartbeat."""
    monkeypatch.setenv(module.SILENT_VARIABLE, "4")
    message = "rank 1 sent no heartbeat for 4 s: DISTIL_SILENT_SECONDS sets the limit"
    with pytest.raises(RankError, match=message) as caught:
        play(monkeypatch, each(WAIT, "os.kill(os.getpid(), signal.SIGSTOP)"))
    assert caught.value.code == -signal.SIGKILL
    assert psutil.Process().children() == []


def test_a_slow_rank_still_sends_heartbeats(monkeypatch):
    monkeypatch.setenv(module.SILENT_VARIABLE, "4")
    seen = []
    play(
        monkeypatch,
        """time.sleep(6); print('@report {"rank": %d}' % rank, flush=True)""",
        report=seen.append,
    )
    assert seen  # a rank that is killed as silent reports nothing and raises


def test_the_limit_must_be_a_number(monkeypatch):
    monkeypatch.setenv(module.SILENT_VARIABLE, "soon")
    with pytest.raises(ValueError, match="DISTIL_SILENT_SECONDS"):
        play(monkeypatch, "")


# ---- SIGTERM ----

SAVES = """
def leave(*_):
    time.sleep({pause})
    sys.exit("error: saved at step 7" if {status} == 1 else {status})
signal.signal(signal.SIGTERM, leave)
print('@report {{"rank": 0}}', flush=True)
time.sleep(60)
"""


def preempted(monkeypatch, script, ranks=2):
    """Run it, and stop it once the first rank has begun."""
    begun = threading.Event()
    play(monkeypatch, script, ranks, lambda values: begun.set(), begun.is_set)


def test_ranks_get_time_to_save_after_sigterm(monkeypatch):
    with pytest.raises(RankError, match=f"rank 0 ended with {PREEMPTED}") as caught:
        preempted(monkeypatch, SAVES.format(pause="2 - rank", status=PREEMPTED))
    assert caught.value.code == PREEMPTED


def test_a_failure_while_saving_is_reported(monkeypatch):
    with pytest.raises(RankError, match="ended with 1: saved at step 7"):
        preempted(monkeypatch, SAVES.format(pause="0", status=1))


def test_sigterm_before_training_is_preemption(monkeypatch):
    script = each("print('@report {}', flush=True); time.sleep(60)", WAIT)
    with pytest.raises(RankError, match="before training began") as caught:
        preempted(monkeypatch, script)
    assert caught.value.code == PREEMPTED


def test_a_rank_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(module, "LEAVE_SECONDS", 1.0)
    stays = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with pytest.raises(RankError) as caught:
        play(monkeypatch, each("time.sleep(1); sys.exit(4)", stays))
    assert caught.value.code == PREEMPTED
    assert psutil.Process().children() == []


def test_a_trial_whose_ranks_left_was_preempted(bank, make, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "RANK_CODE", "import sys; print('saved at 7', file=sys.stderr); sys.exit(4)"
    )
    with pytest.raises(PreemptedError, match="saved at 7"):
        run_trial(make(engine="ddp", ranks=2, batch_size=50), bank, str(tmp_path))


def test_a_gang_over_its_time_limit_saves_its_state_and_fails(bank, make, tmp_path):
    config = make(engine="ddp", ranks=2, batch_size=50, probes=("spectrum",))
    with pytest.raises(TimeLimitError, match=r"^time limit of 0.001 s; state saved at step 1;"):
        run_trial(config, bank, str(tmp_path), time_limit=0.001)
    assert list(tmp_path.rglob("checkpoints/step-00000001*"))


def test_a_time_limit_that_is_over_does_not_end_measuring(bank, make, tmp_path, monkeypatch):
    """The ranks get it and apply it to the training; who waits for them does not end them."""
    script = """
import time
time.sleep(1)
print("error:", sys.argv[sys.argv.index("--time-limit") + 1], "measured", file=sys.stderr)
sys.exit(3)
"""
    monkeypatch.setattr(module, "RANK_CODE", HEAD + script)
    config = make(engine="ddp", ranks=2, batch_size=50)
    with pytest.raises(DivergedError, match=r"^0\.01 measured"):
        run_trial(config, bank, str(tmp_path), time_limit=0.01)


@pytest.mark.parametrize("codes", [(8, 8), (4, 8), (8, 4)])
def test_a_time_limit_that_one_rank_sees_is_that_of_the_trial(monkeypatch, codes):
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    script = f"{ignore}; time.sleep(1 + rank / 2); sys.exit({codes}[rank])"
    with pytest.raises(RankError) as caught:
        play(monkeypatch, script)
    assert caught.value.code == OVER_TIME


PARENT = """
import sys
from trainers.engines import launch

wait = "import os, sys, time; open(sys.argv[1] + f'/{os.getpid()}', 'w').close(); time.sleep(60)"
launch.RANK_CODE = wait
launch.launch(2, [sys.argv[1]], print)
"""


@pytest.mark.faults
def test_ranks_die_with_their_parent(tmp_path):
    """The parent is killed outright; the real bootstrap has set the kernel's death signal."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT)
    end = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    ranks = [psutil.Process(int(p.name)) for p in tmp_path.iterdir()]
    assert len(ranks) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
