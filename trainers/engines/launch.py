"""Start the ranks of a trial on this machine and watch over them as one.

The first rank reports on its standard output, one JSON object a line. When one rank dies, or is
not heard of for DISTIL_SILENT_SECONDS (default 120; each has a thread that gives a sign every
second, so a slow step is no silence), the others are ended; when this process dies, the kernel
ends all of them (on Linux).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from shards.support.child_process import child_command, run_module
from trainers.engines.watchdog import seconds_of

PREFIX = "@report "
PREEMPTED = 4  # exit status of a rank that was asked to leave: its state is saved
GRACE = 1.0  # seconds in which peers of a dead rank may show that they died of it
LEAVE = 20.0  # seconds for the others once a rank has left: the state is saved by then
PORTS = 5  # tries: between its choice and its use a port may be taken
SILENT_VARIABLE, SILENT = "DISTIL_SILENT_SECONDS", 120.0
RANK_CODE = run_module("trainers.trial")  # what each rank runs


class RankError(RuntimeError):
    """A rank ended badly; `code` is its exit status, negative for a signal."""

    def __init__(self, rank: int, code: int, said: str, how: str = "") -> None:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        super().__init__(f"rank {rank} {how or ended}: {said}")
        self.rank, self.code, self.said = rank, code, said


def report_line(values: dict[str, Any]) -> str:
    return PREFIX + json.dumps(values)


def rank_of_environment() -> int | None:
    """This process's rank when torchrun or `launch` started it, else None."""
    return int(os.environ["RANK"]) if "RANK" in os.environ else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    ranks: int,
    arguments: list[str],
    report: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run `python -m trainers.trial ARGUMENTS` as `ranks` ranks until all have ended well.

    Once `stop()` is true the ranks get SIGTERM: they save their state and leave.
    Raises: RankError with the last line of the rank that failed first, or with code PREEMPTED
    where they were asked to leave; all have ended by then.
    """
    for left in reversed(range(PORTS)):
        try:
            _launch(ranks, arguments, report, stop, free_port())
            return
        except RankError as error:
            if "EADDRINUSE" not in error.said or not left:
                raise


def _launch(
    ranks: int,
    arguments: list[str],
    report: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
    port: int,
) -> None:
    silent = seconds_of(SILENT_VARIABLE, SILENT)
    children: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        signs = [folder / str(rank) for rank in range(ranks)]
        try:
            for rank, log in enumerate(logs):
                signs[rank].touch()
                env = os.environ | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                child = subprocess.Popen(
                    child_command(RANK_CODE, arguments, heartbeat=signs[rank]),
                    env=env,
                    stdout=log if rank else subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                children.append(child)
            _Gang(children, logs, _Silence(signs, silent)).watch(report, stop)
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.wait()


class _Silence:
    """How long each rank has given no sign, in this process's own time.

    Counted in pauses between two looks, none more than a second: where this process was halted
    (with all of its machine, say), its ranks are not to blame.
    """

    def __init__(self, signs: list[Path], limit: float) -> None:
        self._signs, self.limit = signs, limit
        self._seen = [0] * len(signs)
        self._seconds = [0.0] * len(signs)
        self._looked = time.monotonic()

    def broken_by(self, alive: Sequence[int]) -> int | None:
        """A rank among `alive` that was silent for too long."""
        now = time.monotonic()
        pause, self._looked = min(now - self._looked, 1.0), now
        for rank in alive:
            seen = self._signs[rank].stat().st_mtime_ns
            self._seconds[rank] = self._seconds[rank] + pause if seen == self._seen[rank] else 0.0
            self._seen[rank] = seen
            if self._seconds[rank] > self.limit:
                return rank
        return None


class _Gang:
    def __init__(
        self, children: list[subprocess.Popen[str]], logs: Sequence[IO[str]], silence: _Silence
    ) -> None:
        self._children, self._logs, self._silence = children, logs, silence
        self._asked = False
        self._first_left: float | None = None

    def watch(self, report: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> None:
        """Pass the first rank's reports on until all ranks have ended."""
        lines: SimpleQueue[str] = SimpleQueue()
        stream = self._children[0].stdout
        assert stream is not None
        reader = threading.Thread(target=_read, args=(stream, lines), daemon=True)
        reader.start()
        while True:
            codes = [child.poll() for child in self._children]
            alive = [rank for rank, code in enumerate(codes) if code is None]
            left = self._left(codes)
            self._refuse_failures(codes, alive, left)
            if stop() or left:
                self._ask_to_leave(alive)
            if not alive:
                reader.join(GRACE)  # a grandchild may hold the pipe open: do not wait for ever
            try:
                line = lines.get(timeout=0.1 if alive else 0)
            except Empty:
                if alive:
                    continue
                break
            if line.startswith(PREFIX):
                report(json.loads(line[len(PREFIX) :]))
        if left:
            raise self._farewell(left)

    def _left(self, codes: list[int | None]) -> list[int]:
        """Ranks that were asked to leave and did; SIGTERM ends one that has not begun yet."""
        leaving = [PREEMPTED, -signal.SIGTERM] if self._asked else [PREEMPTED]
        left = [rank for rank, code in enumerate(codes) if code in leaving]
        if left and self._first_left is None:
            self._first_left = time.monotonic()
        return left

    def _ask_to_leave(self, alive: list[int]) -> None:
        if not self._asked:
            self._asked = True
            for rank in alive:
                self._children[rank].send_signal(signal.SIGTERM)

    def _farewell(self, left: list[int]) -> RankError:
        for rank in left:
            if self._children[rank].returncode == PREEMPTED:
                return RankError(rank, PREEMPTED, _last_line(self._logs[rank]))
        said = "asked to leave before it trained; the same command again continues"
        return RankError(left[0], PREEMPTED, said)

    def _refuse_failures(self, codes: list[int | None], alive: list[int], left: list[int]) -> None:
        if any(code for rank, code in enumerate(codes) if rank not in left):
            raise _blame(self._children, self._logs, left)
        silent = self._silence.broken_by(alive)
        if silent is not None:
            how = f"was not heard of for {self._silence.limit:g} s"
            raise RankError(silent, -signal.SIGKILL, f"{SILENT_VARIABLE} sets the limit", how)
        if self._first_left is not None and time.monotonic() - self._first_left > LEAVE:
            raise self._farewell(left)


def _read(stream: IO[str], lines: SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)


def _blame(
    children: list[subprocess.Popen[str]], logs: Sequence[IO[str]], left: list[int]
) -> RankError:
    """The rank to name: one killed by a signal, else the first seen to end badly.

    A rank's death closes its connections, so its peers soon end badly too. Those that `left`
    when asked to are not looked at.
    """
    first = [rank for rank, child in enumerate(children) if child.poll() and rank not in left]
    end = time.monotonic() + GRACE
    while time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(0.05)
    failed = [rank for rank, child in enumerate(children) if child.poll() and rank not in left]
    said = {rank: _last_line(logs[rank]) for rank in failed}
    peers = ("onnection", "ProcessGroup", "Gloo", "NCCL")

    def guilt(rank: int) -> tuple[bool, bool, bool]:
        victim = any(word in said[rank] for word in peers)
        return children[rank].returncode < 0, not victim, rank in first

    rank = max(failed, key=guilt)
    return RankError(rank, children[rank].returncode, said[rank])


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines() or ["it said nothing"]
    return lines[-1].removeprefix("error: ")
