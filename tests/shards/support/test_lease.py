"""A lease has one holder; an earlier one writes nothing, however late it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.support import conditional, lease, processes, storage
from shards.support.lease import (
    Claim,
    HeldError,
    Lease,
    LostError,
    Observer,
    ours,
    read_claim,
    take,
    wait_and_take,
)
from shards.support.processes import Process, has_ended, is_running, this_process
from tests.s3_server import serve_bucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def elsewhere(token: str = "") -> Claim:
    """A claim of a process on another machine, of which nothing is known here."""
    process = Process(host="far", system="other boot", pid=1, started=1)
    return ours("trial", token).model_copy(update={"process": process})


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serve_bucket("leases") as address:
        yield address


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.store)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on a disk, and one on a server of the S3 protocol."""
    if request.param == "disk":
        return str(tmp_path / "trial")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_one_of_many_gets_it(folder: str) -> None:
    barrier = threading.Barrier(6)

    def attempt(number: int) -> Lease | HeldError:
        barrier.wait()
        try:
            return take(folder, elsewhere())
        except HeldError as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(attempt, range(6)))
    held = [found for found in got if isinstance(found, Lease)]
    assert len(held) == 1
    assert {e.claim.holder for e in got if isinstance(e, HeldError)} == {held[0].claim.holder}
    held[0].release()
    assert take(folder, elsewhere()).generation == 2


def test_an_earlier_holder_is_refused_at_every_write(folder: str) -> None:
    place = storage.join(folder, "lease")
    first = take(place, elsewhere())
    first.publish(storage.join(folder, "result"), b"of the first")
    second = take(place, elsewhere(), gone=[first.claim.holder])
    assert (first.generation, second.generation) == (1, 2)
    for refused in (
        first.check,
        lambda: first.publish(storage.join(folder, "result"), b"late"),
        lambda: first.publish_folder(storage.join(folder, "student" + first.suffix), {"a": b"1"}),
        lambda: first.discard(storage.join(folder, "result")),
    ):
        with pytest.raises(LostError, match="taken over"):
            refused()
    first.beat()
    first.release()  # neither disturbs the second
    assert read_claim(place) == (2, second.claim)
    second.publish_folder(storage.join(folder, "student"), {"a": b"2", "b": b"3"})
    second.publish(storage.join(folder, "result"), b"of the second")
    assert storage.read(storage.join(folder, "result")) == b"of the second"
    assert storage.read(storage.join(folder, "student", "a")) == b"2"
    second.discard(storage.join(folder, "student"))
    assert not storage.exists(storage.join(folder, "student"))


def test_refused_also_where_it_was_suspended_between_check_and_write(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrowest case: the lease is lost after `check` has passed."""
    place, target = storage.join(folder, "lease"), storage.join(folder, "result")
    first = take(place, elsewhere())
    passed = first.check

    def suspended() -> None:
        passed()
        monkeypatch.setattr(first, "check", passed)
        second = take(place, elsewhere(), gone=[first.claim.holder])
        second.publish(target, b"of the second")

    monkeypatch.setattr(first, "check", suspended)
    with pytest.raises(LostError, match="taken over"):
        first.publish(target, b"late")
    assert storage.read(target) == b"of the second"


def test_refused_where_folders_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, target = str(tmp_path / "lease"), tmp_path / "student"
    first = take(place, elsewhere())
    first.publish_folder(str(target), {"a": b"1"})
    real, seen = storage._write_synced, []

    def suspended(path: Path, data: bytes) -> None:
        real(path, data)
        if not seen:
            seen.append(path)
            second = take(place, elsewhere(), gone=[first.claim.holder])
            second.publish_folder(str(target), {"a": b"2"})

    monkeypatch.setattr(storage, "_write_synced", suspended)
    with pytest.raises(LostError, match="taken over"):
        first.publish_folder(str(target), {"a": b"late", "b": b"late"})
    assert [(p.name, p.read_bytes()) for p in target.iterdir()] == [("a", b"2")]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_it_expires_by_an_unchanged_heartbeat_alone(tmp_path: Path) -> None:
    place, clock = str(tmp_path), Clock()
    first, observer = take(place, elsewhere()), Observer(30.0, clock)
    for _ in range(3):
        with pytest.raises(HeldError, match="held by process 1 on far since"):
            take(place, elsewhere(), observer)
        clock.sleep(29.0)
        first.beat()
    with pytest.raises(HeldError):
        take(place, elsewhere(), observer)  # the beat is seen now
    clock.sleep(29.0)
    with pytest.raises(HeldError):
        take(place, elsewhere(), observer)
    clock.sleep(1.0)
    assert take(place, elsewhere(), observer).generation == 2


def test_waiting_ends_at_the_first_sign_of_life(tmp_path: Path) -> None:
    place, clock, noticed = str(tmp_path), Clock(), []
    first = take(place, elsewhere())

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now == 1003.0:
            first.beat()

    with pytest.raises(HeldError):
        wait_and_take(place, elsewhere(), (), Observer(30.0, clock), sleep, noticed.append)
    assert clock.now == 1003.0
    assert [claim.holder for claim in noticed] == [first.claim.holder]
    taken = wait_and_take(place, elsewhere(), (), Observer(30.0, clock), clock.sleep)
    assert (taken.generation, clock.now) == (2, 1033.0)


@pytest.mark.parametrize("known", ["holder", "token"])
def test_whom_the_caller_knows_to_be_gone_is_not_waited_for(tmp_path: Path, known: str) -> None:
    first = take(str(tmp_path), elsewhere("sweep 1"))
    gone = [getattr(first.claim, known)]
    with pytest.raises(HeldError):
        take(str(tmp_path), elsewhere(), gone=["sweep 2"])
    assert take(str(tmp_path), elsewhere(), gone=gone).generation == 2


def test_a_lease_without_token_is_not_free_for_those_without_one(tmp_path: Path) -> None:
    take(str(tmp_path), elsewhere())
    with pytest.raises(HeldError):
        take(str(tmp_path), elsewhere(), gone=[""])


CHILD = """
import sys, time
from shards.support.lease import ours, take
held = take(sys.argv[1], ours("trial"))
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_suspended_holder_is_waited_for_and_a_dead_one_is_not(tmp_path: Path) -> None:
    place, clock = str(tmp_path), Clock()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline() == b"held\n"
    _, held = read_claim(place)
    assert held
    assert is_running(held.process)
    with pytest.raises(HeldError):  # at once
        wait_and_take(place, ours("trial"), (), Observer(30.0, clock), clock.sleep)
    assert clock.now == 1000.0
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert not is_running(held.process)
    assert not has_ended(held.process)
    second = wait_and_take(place, ours("trial"), (), Observer(30.0, clock), clock.sleep)
    assert (second.generation, clock.now) == (2, 1030.0)
    second.release()
    third = take(place, held.model_copy(update={"holder": "again"}))
    assert third.generation == 3
    child.kill()
    child.wait()
    assert has_ended(held.process)
    assert take(place, ours("trial")).generation == 4
    child.stdin.close()
    child.stdout.close()


def test_a_process_number_that_is_used_again_is_another_process() -> None:
    this = this_process()
    assert is_running(this)
    before = this.model_copy(update={"started": this.started - 1 if this.started else 1})
    assert has_ended(before)
    far = this.model_copy(update={"host": "far", "pid": 2**22})
    assert not has_ended(far)
    assert not is_running(far)


def test_a_process_that_ended_but_was_not_waited_for_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    _, started = processes._state(child.pid)
    there = this_process().model_copy(update={"pid": child.pid, "started": started})
    assert is_running(there)
    assert not has_ended(there)
    assert child.stdin
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(there)
    assert not is_running(there)
    child.wait()


def test_heartbeats_go_on_until_it_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    place = str(tmp_path)
    beats = threading.Event()
    with take(place, elsewhere()) as held:
        real = held.beat

        def beat() -> None:
            real()
            if held.claim.beat == 2:
                beats.set()
                raise OSError("the store does not answer")  # a missed heartbeat is no failure

        monkeypatch.setattr(held, "beat", beat)
        assert beats.wait(20)
        while held.claim.beat < 3:
            beats.wait(0.01)
    _, claim = read_claim(place)
    assert claim
    assert claim.released
    assert claim.beat >= 3
    assert [p.name for p in tmp_path.iterdir()] == ["00000001.json"]


def test_a_request_to_stop_is_for_the_present_holder_alone(folder: str) -> None:
    assert lease.request_stop(folder) is None
    first = take(folder, elsewhere())
    first.beat()
    assert not first.stop_requested
    assert not lease.is_stop_requested(folder)
    claim = lease.request_stop(folder)
    assert claim
    assert claim.holder == first.claim.holder
    assert lease.is_stop_requested(folder)
    first.beat()
    assert first.stop_requested
    first.release()
    assert lease.is_stop_requested(folder)  # as whoever waits for it to end may ask afterwards
    assert lease.request_stop(folder) is None
    second = take(folder, elsewhere())
    second.beat()
    assert not second.stop_requested
    assert not lease.is_stop_requested(folder)
    first.beat()
    assert first.lost
    assert not second.lost


def test_a_lost_reply_is_no_failure(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request to create the file has succeeded, its reply was lost, and it was sent again."""
    real = conditional.create

    def twice(location: str, data: bytes) -> None:
        real(location, data)
        real(location, data)

    monkeypatch.setattr(conditional, "create", twice)
    assert take(folder, elsewhere()).generation == 1


def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "00000001.json").write_text("{")
    with pytest.raises(ValueError, match=r"00000001\.json: not JSON"):
        take(str(tmp_path), elsewhere())
