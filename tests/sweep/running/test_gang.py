"""The ranks of a gang live and die together; other programs stand in for ranks, threads for Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.exceptions import RayError

from sweep.running import gang
from sweep.running.rank_host import RankHost
from trainers.engines import launch
from trainers.engines.launch import PREEMPTED, RankError
from trainers.engines.rendezvous import rendezvous

pytestmark = pytest.mark.ranks

HEAD = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
WAIT = "time.sleep(60)"


class Host:
    """The actor of a rank. After `lost` seconds its node is gone; or, if `silent`, cut off."""

    def __init__(self, threads: futures.Executor, lost: float = 1e9, silent: bool = False) -> None:
        self.real, self.lost, self.silent = RankHost(), time.monotonic() + lost, silent
        for name in ("start", "poll", "terminate"):
            remote = SimpleNamespace(remote=lambda *a, n=name: threads.submit(self._call, n, *a))
            setattr(self, name, remote)

    def _call(self, name: str, *arguments: Any) -> Any:
        if time.monotonic() > self.lost:
            if self.silent:
                time.sleep(3)
            raise RayError("the node is gone")
        return getattr(self.real, name)(*arguments)


def wait(answers: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
    done, others = futures.wait(answers, timeout, futures.FIRST_COMPLETED)
    return list(done), list(others)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[futures.Executor]:
    monkeypatch.setattr(gang.ray, "wait", wait)
    monkeypatch.setattr(gang.ray, "get", lambda answer: answer.result())
    with futures.ThreadPoolExecutor() as executor:
        yield executor
    for child in psutil.Process().children():
        child.kill()  # as the end of an actor does


def play(monkeypatch, hosts, script, report=lambda values: None, stop=lambda: False):
    monkeypatch.setattr(launch, "RANK_CODE", HEAD + script)
    gang._Gang(hosts).run([], {}, "", report, stop)


def each(first: str, second: str) -> str:
    return f"if rank == 0:\n    {first}\nelse:\n    {second}\n"


def test_reports_arrive_in_order_and_the_document_is_read(threads, monkeypatch) -> None:
    seen = []
    script = each(
        "print('noise'); [print('@report {\"epoch\": %d}' % i) for i in range(3000)]", "0"
    )
    play(monkeypatch, [Host(threads), Host(threads)], script, seen.append)
    assert [values["epoch"] for values in seen] == list(range(3000))


SEGV = "sys.stderr.write('one\\ntwo\\n'); sys.stderr.flush(); os.kill(os.getpid(), 11)"
ENDS = [
    (WAIT, "sys.exit('error: lr is odd')", "rank 1 ended with 1: lr is odd", 1),
    (WAIT, SEGV, "rank 1 was killed by SIGSEGV: one | two", -11),
    # A peer's connection breaks before the process that failed has ended.
    ("sys.exit('Connection reset')", "time.sleep(0.5); sys.exit('no file')", "rank 1.*no file", 1),
]


@pytest.mark.parametrize(("first", "second", "message", "code"), ENDS)
def test_the_rank_that_failed_first_is_named(
    threads, monkeypatch, first, second, message, code
) -> None:
    with pytest.raises(RankError, match=message) as caught:
        play(monkeypatch, [Host(threads), Host(threads)], each(first, second))
    assert caught.value.code == code


@pytest.mark.parametrize("silent", [False, True])
def test_a_lost_node_is_the_cause_and_not_the_connection_that_broke(
    threads, monkeypatch, silent
) -> None:
    monkeypatch.setattr(gang, "LOST_SECONDS", 2.0)
    hosts = [Host(threads), Host(threads, lost=1.0, silent=silent)]
    script = each("time.sleep(1.5); sys.exit('Connection closed by peer')", WAIT)
    with pytest.raises(RankError, match="rank 1 is gone") as caught:
        play(monkeypatch, hosts, script)
    assert caught.value.code == gang.LOST


def test_asked_to_leave_all_ranks_get_sigterm(threads, monkeypatch) -> None:
    script = f"""
def save(number, frame):
    sys.stderr.write('state saved at step 3')
    sys.exit({PREEMPTED})
signal.signal(signal.SIGTERM, save)
print('@report {{}}' if rank == 0 else '', flush=True)
{WAIT}
"""
    begun = []
    hosts = [Host(threads), Host(threads)]
    with pytest.raises(RankError, match="state saved at step 3") as caught:
        play(monkeypatch, hosts, script, begun.append, lambda: bool(begun))
    assert caught.value.code == PREEMPTED


def test_a_silent_rank_is_ended(threads, monkeypatch) -> None:
    monkeypatch.setenv(launch.SILENT_VARIABLE, "3")
    script = each(WAIT, "os.kill(os.getpid(), signal.SIGSTOP)")
    with pytest.raises(RankError, match="rank 1 sent no heartbeat for 3 s") as caught:
        play(monkeypatch, [Host(threads), Host(threads)], script)
    assert caught.value.code < 0


MEET = """
import torch.distributed as dist
dist.init_process_group('gloo')
print('@report {"ranks": %d}' % dist.get_world_size(), flush=True)
dist.destroy_process_group()
"""


def test_ranks_meet_at_a_port_that_the_system_chose(threads, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(launch, "RANK_CODE", HEAD + MEET)
    with rendezvous("127.0.0.1") as one, rendezvous("127.0.0.1") as other:
        assert one["MASTER_PORT"] != other["MASTER_PORT"]
        hosts = [Host(threads), Host(threads)]
        gang._Gang(hosts).run([], one, "", seen.append, lambda: False)
    assert seen == [{"ranks": 2}]
