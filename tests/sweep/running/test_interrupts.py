"""Signals of a driver, and what it does when Ray dies under it, without Ray."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from sweep.running import interrupts
from sweep.running.health import ControlAddress
from sweep.running.interrupts import graceful
from sweep.running.rank_host import interface_of


def signalled(leave, running, *kinds: int, sleep: float = 20, at_once=None) -> None:
    """A block that gets these signals, and would then take `sleep` seconds."""
    with graceful(leave, running, at_once):
        for kind in kinds:
            os.kill(os.getpid(), kind)
        time.sleep(sleep)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_trials_to_leave(
    kind: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []
    before = signal.getsignal(kind)
    start = time.monotonic()

    def running() -> int:
        return int(time.monotonic() < asked[0] + 0.5)

    with pytest.raises(KeyboardInterrupt):
        signalled(lambda: asked.append(time.monotonic()), running, kind)
    assert 0.5 <= time.monotonic() - start < 10
    assert "once more ends at once" in capsys.readouterr().err
    assert signal.getsignal(kind) == before


def test_the_second_signal_does_not_wait() -> None:
    ended: list[bool] = []
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signalled(
            lambda: None, lambda: 1, *[signal.SIGTERM] * 2, at_once=lambda: ended.append(True)
        )
    assert ended == [True]
    assert time.monotonic() - start < 5


def test_trials_that_do_not_leave_are_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "GRACE", 0.3)
    with pytest.raises(KeyboardInterrupt):
        signalled(lambda: None, lambda: 1, signal.SIGINT)


def test_a_block_that_ends_by_itself_after_a_signal_was_interrupted_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt):
        signalled(lambda: None, lambda: 1, signal.SIGINT, sleep=0.1)


def test_a_control_process_is_dead_after_half_a_minute_of_silence() -> None:
    now = 0.0
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        address = ControlAddress(f"127.0.0.1:{port}", lambda: now)
        now = 1000.0
        assert address.dead() == ""
    now = 1029.0
    assert address.dead() == ""
    now = 1031.0
    assert address.dead() == f"control process at 127.0.0.1:{port}"


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None
