"""The ranks of a gang live and die together; other programs stand in for ranks, threads for Ray."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.exceptions import RayError

from sweep.running import gang, leaving, rank_host
from sweep.running.rank_host import RankHost
from trainers.engines import launch
from trainers.engines.launch import OVER_TIME, PREEMPTED, RankError
from trainers.engines.rendezvous import rendezvous

pytestmark = pytest.mark.ranks

HEAD = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
WAIT = "time.sleep(60)"


class Host:
    """The actor of a rank. After `lost` seconds its node is gone; or, if `silent`, cut off."""

    warm = False

    def __init__(self, threads: futures.Executor, lost: float = 1e9, silent: bool = False) -> None:
        self.real, self.lost = RankHost(Host.warm), time.monotonic() + lost
        self.silent = silent
        for name in ("start", "poll", "terminate", "kill"):
            remote = SimpleNamespace(remote=lambda *a, n=name: threads.submit(self._call, n, *a))
            setattr(self, name, remote)

    def _call(self, name: str, *arguments: Any) -> Any:
        if time.monotonic() > self.lost:
            if self.silent:
                time.sleep(3)
            raise RayError("the node is gone")
        return getattr(self.real, name)(*arguments)


@pytest.fixture(params=[False, True], ids=["new", "forked"], autouse=True)
def warm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether ranks are new processes, or forked from one that has imported modules."""
    monkeypatch.setattr(Host, "warm", request.param)
    monkeypatch.setattr(rank_host, "MODULES", ("fractions",))  # for torch, which takes seconds
    return request.param


def wait(answers: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
    done, others = futures.wait(answers, timeout, futures.FIRST_COMPLETED)
    return list(done), list(others)


def get(answers: Any, timeout: float | None = None) -> Any:
    if not isinstance(answers, list):
        return answers.result()
    if futures.wait(answers, timeout).not_done:
        raise RayError("no answer in time")
    return [answer.result() for answer in answers]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[futures.Executor]:
    monkeypatch.setattr(gang.ray, "wait", wait)
    monkeypatch.setattr(gang.ray, "get", get)
    with futures.ThreadPoolExecutor() as executor:
        yield executor
    children = psutil.Process().children()
    for child in children:
        child.kill()  # as the end of an actor does
    psutil.wait_procs(children, timeout=10)  # or they stay in the process table, for later tests


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


ABOUT = """
import json
about = {'pid': os.getpid(), 'parent': os.getppid(), 'imported': imported}
about['name'] = open('/proc/self/comm').read().strip()
print('@report ' + json.dumps(about), end='')
os.environ['DISTIL_LEFT'] = sys.left = 'here'
"""


def test_ranks_of_the_next_trial_are_as_good_as_new(threads, monkeypatch, warm) -> None:
    """Nothing is left of the rank before but what the process had imported."""
    hosts, seen = [Host(threads), Host(threads)], []
    clean = "assert not hasattr(sys, 'left') and 'DISTIL_LEFT' not in os.environ\n"
    imported = "imported = 'fractions' in sys.modules\n"
    for _ in range(2):
        play(monkeypatch, hosts, clean + imported + ABOUT, seen.append)
    one, two = seen
    assert one["pid"] != two["pid"]
    assert one["parent"] == two["parent"]
    assert (one["parent"] != os.getpid()) == warm
    assert one["imported"] == two["imported"] == warm
    assert (one["name"] == "rank 0:") == warm


@pytest.mark.parametrize("warm", [True], indirect=True)
def test_a_rank_dies_with_the_process_that_it_was_forked_from(threads, monkeypatch, warm) -> None:
    hosts, seen = [Host(threads), Host(threads)], []

    def report(values: dict[str, Any]) -> None:
        seen.append(values)
        os.kill(values["parent"], 9)

    script = f"""
import json
if rank == 0:
    about = {{'pid': os.getpid(), 'parent': os.getppid()}}
    print('@report ' + json.dumps(about), flush=True)
{WAIT}
"""
    with pytest.raises(RankError, match="rank 0 was killed by SIGKILL") as caught:
        play(monkeypatch, hosts, script, report)
    assert caught.value.code < 0
    with contextlib.suppress(psutil.NoSuchProcess):  # or nobody has waited for it
        assert psutil.Process(seen[0]["pid"]).status() == psutil.STATUS_ZOMBIE
    # The next one has a new process to be forked from.
    play(monkeypatch, hosts[:1], "0")


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
    if first != WAIT:  # on a busy machine the second may begin seconds later
        monkeypatch.setattr(launch, "PEER_SECONDS", 20.0)
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


SAVE = f"""
def save(number, frame):
    sys.stderr.write('state saved at step 3')
    sys.exit({PREEMPTED})
signal.signal(signal.SIGTERM, save)
print('@report {{}}' if rank == 0 else '', flush=True)
{WAIT}
"""


def test_asked_to_leave_all_ranks_get_sigterm(threads, monkeypatch) -> None:
    begun = []
    hosts = [Host(threads), Host(threads)]
    with pytest.raises(RankError, match="state saved at step 3") as caught:
        play(monkeypatch, hosts, SAVE, begun.append, lambda: bool(begun))
    assert caught.value.code == PREEMPTED


@pytest.mark.parametrize("script", [SAVE, "print('@report {}', flush=True)\n" + WAIT])
def test_the_node_of_one_rank_is_taken_away_and_all_ranks_leave(
    threads, monkeypatch, script
) -> None:
    """The trial's own actor may be on another node; no rank is counted as one that died."""
    hosts = [Host(threads), Host(threads)]

    def watch_node(sweep: str, leave: Callable[[], None]) -> None:
        watched.append((sweep, leave))

    watched: list[tuple[str, Callable[[], None]]] = []
    monkeypatch.setattr(leaving, "watch_node", watch_node)
    monkeypatch.setattr(launch, "RANK_CODE", HEAD + script)
    with pytest.raises(RankError) as caught:
        gang._Gang(hosts, "sweep").run([], {}, "", lambda values: watched[1][1](), lambda: False)
    assert [name for name, _ in watched] == ["sweep", "sweep"]
    assert caught.value.code == PREEMPTED


def test_a_rank_over_its_time_limit_has_left_and_the_others_get_time(threads, monkeypatch) -> None:
    saves = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), sys.exit(4)))"
    script = each(f"{saves}; {WAIT}", f"time.sleep(1); sys.exit({OVER_TIME})")
    hosts = [Host(threads), Host(threads)]
    with pytest.raises(RankError, match="rank 1") as caught:
        play(monkeypatch, hosts, script)
    assert caught.value.code == OVER_TIME
    assert [hosts[rank].real.poll().code for rank in (0, 1)] == [PREEMPTED, OVER_TIME]


def test_ranks_are_ended_and_the_next_attempt_gets_their_actors(
    threads, monkeypatch, tmp_path
) -> None:
    """The one that is left would wait for ever; nothing of it reaches the next attempt."""
    hosts, seen, left = [Host(threads), Host(threads)], [], []
    report = "print('@report {\"pid\": %d}' % os.getpid(), flush=True)"
    said = str(tmp_path / "said")
    script = each(
        f"{report}; open({said!r}, 'w').close(); {WAIT}",
        f"[time.sleep(0.1) for _ in iter(lambda: os.path.exists({said!r}), True)]; "
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    monkeypatch.setattr(launch, "RANK_CODE", HEAD + script)
    monkeypatch.setattr(launch, "PEER_SECONDS", 1.0)  # the other one's report is read meanwhile
    first = gang._Gang(hosts)
    with pytest.raises(RankError, match="rank 1 was killed by SIGKILL"):
        first.run([], {}, "", left.append, lambda: False)
    (about,) = left
    assert psutil.pid_exists(about["pid"])
    assert first.end()
    assert not psutil.pid_exists(about["pid"])
    assert first.end()  # nothing runs
    play(monkeypatch, hosts, each(report, "pass"), seen.append)
    assert len(seen) == 1
    assert seen[0]["pid"] != about["pid"]


def test_actors_of_a_lost_node_get_no_other_attempt(threads, monkeypatch) -> None:
    hosts = [Host(threads), Host(threads, lost=2.0)]
    monkeypatch.setattr(launch, "RANK_CODE", HEAD + each(WAIT, WAIT))
    monkeypatch.setattr(launch, "PEER_SECONDS", 0.2)
    lost = gang._Gang(hosts)
    with pytest.raises(RankError, match="rank 1 is gone"):
        lost.run([], {}, "", lambda values: None, lambda: False)
    assert not lost.end()


def test_a_silent_rank_is_ended(threads, monkeypatch) -> None:
    monkeypatch.setenv(launch.SILENT_VARIABLE, "3")
    script = each(WAIT, "os.kill(os.getpid(), signal.SIGSTOP)")
    with pytest.raises(RankError, match="rank 1 sent no heartbeat for 3 s") as caught:
        play(monkeypatch, [Host(threads), Host(threads)], script)
    assert caught.value.code < 0


MEET = """
import torch.distributed as dist
dist.init_process_group('gloo')
dist.barrier()  # or one may be gone while the other still connects
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


@pytest.mark.parametrize("warm", [True], indirect=True)
@pytest.mark.parametrize("answers", [True, False])
def test_actors_of_the_trial_before_are_taken_only_if_all_of_them_answer(
    threads, monkeypatch, warm, answers
) -> None:
    def ready(pending: list[bool], timeout: float) -> None:
        if not all(pending):
            raise RayError("one is gone")

    killed: list[Any] = []
    monkeypatch.setattr(gang.ray, "get", ready)
    monkeypatch.setattr(gang.ray, "kill", killed.append)
    one, other = (
        SimpleNamespace(ready=SimpleNamespace(remote=lambda alive=alive: alive))
        for alive in (True, answers)
    )
    monkeypatch.setattr(gang, "_kept", {"group": [one, other]})
    assert gang._kept_hosts("another", 2) == []
    assert gang._kept_hosts("group", 2) == ([one, other] if answers else [])
    assert killed == ([] if answers else [one, other])
    assert gang._kept_hosts("group", 2) == []  # a trial that is running has them
