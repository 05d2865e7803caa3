"""An object store that fails for a while: waited out where it has answered before, and only then.

Outages are counted in requests here and the pauses are cut, see `quick`. A real one of two minutes
is in tests/sweep/running/test_outage.py.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.support import clients, conditional, lease, retry, storage
from shards.support.lease import HeldError, Observer, ours, take
from shards.support.processes import Process
from tests.s3_server import Store, serve_store

pytestmark = [pytest.mark.store, pytest.mark.faults]

TIMES = 6  # requests that fail: more than there are short pauses


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with serve_store("outages") as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that this process has not reached yet, as far as it remembers."""
    monkeypatch.setattr(retry, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(retry, "LONG_PAUSE", (0.02, 0.05))
    monkeypatch.setattr(retry, "_answered", set())
    monkeypatch.setattr(retry, "_down", {})
    yield server
    server.faults.mend()


@pytest.fixture
def known(store: Store, tmp_path: Path) -> str:
    """A folder with one file, on a store that has answered before."""
    folder = f"{store.url}/{tmp_path.name}"
    storage.write(f"{folder}/old", b"old")
    return folder


def replaced(folder: str) -> bool:
    conditional.replace(f"{folder}/old", b"2", conditional.version(f"{folder}/old"))
    return storage.read(f"{folder}/old") == b"2"


ACTIONS: dict[str, Callable[[str], object]] = {
    "read": lambda folder: storage.read(f"{folder}/old") == b"old",
    "read_ranges": lambda folder: storage.read_ranges(f"{folder}/old", [(1, 3)]) == [b"ld"],
    "exists": lambda folder: storage.exists(f"{folder}/old"),
    "is missing": lambda folder: not storage.exists(f"{folder}/new"),
    "names": lambda folder: storage.names(folder) == ["old"],
    "below": lambda folder: storage.below(folder) == ["old"],
    "glob": lambda folder: storage.glob(f"{folder}/*") == [f"{folder}/old"],
    "state": lambda folder: (storage.state(f"{folder}/old") or [0])[0] == 3,
    "write": lambda folder: storage.write(f"{folder}/new", b"1") or storage.exists(f"{folder}/new"),
    "delete": lambda folder: storage.delete(folder) or storage.names(folder) == [],
    "create": lambda folder: (
        conditional.create(f"{folder}/new", b"1") or storage.read(f"{folder}/new") == b"1"
    ),
    "replace": replaced,
    "take": lambda folder: take(f"{folder}/lease", ours("test")).generation == 1,
}


# Each attempt after expired credentials makes a new client, which takes a while.
EXPIRED = [(action, "expired") for action in ("read", "names", "create")]
OTHERS = [(a, fault) for a in ACTIONS for fault in ("500", "slow down", "reset", "lost reply")]


@pytest.mark.parametrize(("action", "fault"), OTHERS + EXPIRED)
def test_every_operation_waits_an_outage_out(
    action: str, fault: str, store: Store, known: str
) -> None:
    store.faults.fail(fault, TIMES)
    assert ACTIONS[action](known)
    assert store.faults.left == 0


def test_it_says_so_in_one_line_and_when_it_is_over(
    store: Store, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.faults.fail("slow down", TIMES)
    storage.names(known)
    waiting, over = capsys.readouterr().err.splitlines()
    assert waiting.startswith(f"waiting: {known}: ")
    assert "SlowDown; trying again for up to 300 s" in waiting
    assert over == f"{store.url}: answers again after 0 s"


def test_patience_ends(store: Store, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.PATIENCE_VARIABLE, "0.5")
    store.faults.fail("500")
    began = time.monotonic()
    with pytest.raises(
        OSError, match=r"attempts failed in [01] s .*InternalError.*check"
    ) as caught:
        storage.write(f"{known}/new", b"1")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5
    monkeypatch.setenv(retry.PATIENCE_VARIABLE, "long")
    with pytest.raises(ValueError, match="DISTIL_STORE_SECONDS: `long`"):
        storage.read(f"{known}/old")


@pytest.mark.parametrize("action", ["read", "write", "names", "delete", "create"])
def test_a_refusal_is_final(action: str, store: Store, known: str) -> None:
    store.faults.fail("denied")
    store.faults.seen.clear()
    with pytest.raises(PermissionError, match=r"AccessDenied|Forbidden"):
        ACTIONS[action](known)
    assert len(store.faults.seen) == 1


def test_what_is_missing_is_missing_at_once(store: Store, known: str) -> None:
    for place in (f"{known}/none", "s3://no-such-bucket/x"):
        with pytest.raises(FileNotFoundError, match=place):
            storage.read(place)
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        storage.write("s3://no-such-bucket/x", b"1")


def test_a_store_that_never_answered_is_given_up_soon(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.faults.fail("500")
    store.faults.seen.clear()
    with pytest.raises(OSError, match="4 attempts failed"):
        storage.names(store.url)
    assert len(store.faults.seen) == 4
    store.faults.fail("expired")
    with pytest.raises(PermissionError, match="ExpiredToken"):
        storage.write(f"{store.url}/x", b"1")
    for known_by in (lambda: retry.expect(f"{store.url}/y"), None):
        if known_by:
            known_by()
        else:
            monkeypatch.setenv(retry.ANSWERS, retry.answers()[retry.ANSWERS])
            monkeypatch.setattr(retry, "_answered", set())
        store.faults.fail("500", TIMES)
        assert storage.names(f"{store.url}/nothing") == []


def test_briefly_gives_up_soon_as_well(store: Store, known: str) -> None:
    store.faults.fail("500")
    with retry.briefly(), pytest.raises(OSError, match="4 attempts failed"):
        storage.write(f"{known}/new", b"1")


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_dead_address_takes_seconds(
    kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "SILENT_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if kind == "refused":
            listening.close()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(clients, "CONNECT_SECONDS", 2)  # another client than before
        began = time.monotonic()
        with pytest.raises(OSError, match=r"attempts? failed .*AWS_ENDPOINT_URL"):
            storage.read("s3://dead/x")
        assert time.monotonic() - began < retry.BRIEF + 8


def test_credentials_that_are_renewed_are_read_anew(
    store: Store, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"

    def store_key(name: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=x\n")

    store_key("OLD")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    clients.forget_credentials(known)
    store.faults.fail("expired", when=lambda request: "OLD/" in request["HTTP_AUTHORIZATION"])
    renewing = threading.Timer(0.5, store_key, ["NEW"])
    renewing.start()
    storage.write(f"{known}/new", b"1")
    assert storage.names(known) == ["new", "old"]
    renewing.join()
    monkeypatch.undo()
    clients.forget_credentials(known)


def test_a_condition_is_met_once_though_its_reply_is_lost(store: Store, known: str) -> None:
    place = f"{known}/new"
    store.faults.fail("lost reply", 1, lambda request: request["REQUEST_METHOD"] == "PUT")
    conditional.create(place, b"mine")
    store.faults.fail("500", 1, lambda request: request["REQUEST_METHOD"] == "PUT")
    with pytest.raises(FileExistsError):
        conditional.create(place, b"another")
    before = conditional.version(place)
    store.faults.fail("lost reply", 1, lambda request: request["REQUEST_METHOD"] == "PUT")
    conditional.replace(place, b"second", before)
    assert storage.read(place) == b"second"
    with pytest.raises(conditional.ChangedError):
        conditional.replace(place, b"third", before)


def test_a_heartbeat_does_not_hold_its_holder_up(
    store: Store, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "LAST_BEAT", 0.5)
    monkeypatch.setattr(clients, "SILENT_SECONDS", 1)
    with take(f"{known}/lease", ours("test")) as held:
        store.faults.fail("500")
        beats = held.claim.beat
        time.sleep(0.5)
        store.faults.mend()
        while held.claim.beat < beats + 3:  # it goes on by itself
            time.sleep(0.05)
        monkeypatch.setattr(retry, "BRIEF", 0.5)
        store.faults.fail("silent")
        time.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_an_upload_to_a_silent_server_ends(
    store: Store, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's time-out of silence must bound uploads too."""
    monkeypatch.setattr(clients, "SILENT_SECONDS", 1)
    monkeypatch.setattr(retry, "BRIEF", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and never reads or answers
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    clients.forget_credentials(known)
    began = time.monotonic()
    with listener, retry.briefly(), pytest.raises(OSError, match="failed in"):
        storage.write(f"{known}/file", b"bytes")
    clients.forget_credentials(known)
    assert time.monotonic() - began < 10


def test_an_outage_is_no_sign_that_a_holder_is_gone(store: Store, known: str) -> None:
    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    clock, place = Clock(), f"{known}/lease"
    observer = Observer(30.0, clock)
    take(place, ours("test").model_copy(update={"process": elsewhere()}))

    def is_held() -> bool:
        try:
            take(place, ours("test"), observer)
        except HeldError:
            return True
        return False

    assert is_held()
    clock.now += 20
    assert is_held()
    store.faults.fail("500")
    with retry.briefly(), pytest.raises(OSError, match="attempts failed"):
        take(place, ours("test"), observer)
    store.faults.mend()
    assert is_held()
    clock.now += 29
    assert is_held()
    clock.now += 1
    assert not is_held()


def elsewhere() -> Process:
    return Process(host="far", system="other boot", pid=1, started=1)
