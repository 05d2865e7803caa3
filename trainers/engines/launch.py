"""Start the ranks of a trial on this machine and supervise them as a group.

The first rank reports on its standard output, one JSON object a line. When one rank dies, or sends
no heartbeat for DISTIL_SILENT_SECONDS (default 120), the others are killed. The heartbeat comes
from a thread of its own, so a slow training step does not delay it. When this process dies, the
kernel kills all ranks (on Linux).
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
from typing import IO, Any, Protocol

from shards.support.child_process import Heartbeats, child_command
from shards.support.environment import seconds_of
from shards.support.retry import answers

REPORT_PREFIX = "@report "
PREEMPTED = 4  # exit status of a rank that SIGTERM ended and whose state is saved
ELSEWHERE = 6  # exit status of a first rank that finds another process running the trial
UNANSWERED = 7  # exit status of a rank whose object store did not answer; a retry may succeed
OVER_TIME = 8  # exit status of a launched rank that reached the time limit; its state is saved
LEFT = (PREEMPTED, OVER_TIME)  # exit statuses of a rank that saved the trial's state and left
PEER_SECONDS = 1.0  # how long to wait, after a rank's death, for others to fail because of it
LEAVE_SECONDS = 20.0  # how long ranks may take to exit once one has exited with its state saved
PORT_ATTEMPTS = 5  # another process may take a port between its choice and its use
SILENT_VARIABLE, SILENT = "DISTIL_SILENT_SECONDS", 120.0
CONNECTION_WORDS = ("onnection", "ProcessGroup", "Gloo", "gloo", "NCCL")
RANK_CODE = "from trainers.trial import main\nmain()\n"  # what each rank runs


class RankError(RuntimeError):
    """A rank failed.

    rank: its number. code: its exit status, negative for a signal. message: the last line of its
    standard error. ending: how it ended, where the exit status does not show that.
    """

    def __init__(self, rank: int, code: int, message: str, ending: str = "") -> None:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        super().__init__(f"rank {rank} {ending or ended}: {message}")
        self.rank, self.code, self.message = rank, code, message

    @property
    def is_about_connection(self) -> bool:
        """Whether the rank only lost its connection to another one."""
        return any(word in self.message for word in CONNECTION_WORDS)


class Launcher(Protocol):
    """Starts the ranks of a trial and waits for them, see `launch`, which does so on this machine.

    Raises: as `launch`.
    """

    def __call__(
        self,
        ranks: int,
        arguments: list[str],
        report: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool] = ...,
        document: str = ...,
    ) -> None: ...


def report_line(values: dict[str, Any]) -> str:
    """The line that the first rank prints to report `values` to the process that launched it."""
    return REPORT_PREFIX + json.dumps(values)


def pass_on(line: str, report: Callable[[dict[str, Any]], None]) -> None:
    """Call `report` with the values of a line by `report_line`; any other line is ignored."""
    if line.startswith(REPORT_PREFIX):
        report(json.loads(line[len(REPORT_PREFIX) :]))


def rank_of_environment() -> int | None:
    """This process's rank where torchrun or `launch` started it, else None."""
    return int(os.environ["RANK"]) if "RANK" in os.environ else None


def free_port() -> int:
    """A TCP port that no process listens on at present."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch(
    ranks: int,
    arguments: list[str],
    report: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool] = lambda: False,
    document: str = "",
) -> None:
    """Run `python -m trainers.trial ARGUMENTS` as `ranks` processes and wait for all of them.

    Args:
        ranks: how many processes, all on this machine.
        arguments: of the command.
        report: called with each report of the first rank.
        stop: once it returns true the ranks get SIGTERM, save their state and exit.
        document: text that each rank reads from its standard input.

    Raises:
        RankError: with the last line of the rank that failed first, or with a code of LEFT where
            they exited with their state saved. All ranks have ended by then.
    """
    for attempts_left in reversed(range(PORT_ATTEMPTS)):
        try:
            _launch(ranks, arguments, report, stop, document, free_port())
            return
        except RankError as error:
            if "EADDRINUSE" not in error.message or not attempts_left:
                raise


def _launch(
    ranks: int,
    arguments: list[str],
    report: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
    document: str,
    port: int,
) -> None:
    limit = seconds_of(SILENT_VARIABLE, SILENT)
    children: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        heartbeats = [folder / str(rank) for rank in range(ranks)]
        # A file and not a pipe: a rank that fails before it reads cannot block this process.
        standard_input = folder / "standard_input"
        standard_input.write_text(document, encoding="utf-8")
        try:
            for rank, log in enumerate(logs):
                heartbeats[rank].touch()
                env = os.environ | answers()
                env |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                child = subprocess.Popen(
                    child_command(RANK_CODE, arguments, heartbeat=heartbeats[rank]),
                    env=env,
                    stdin=stack.enter_context(standard_input.open()),
                    stdout=log if rank else subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                children.append(child)
            _RankGroup(children, logs, Heartbeats(heartbeats, limit)).watch(report, stop)
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.wait()


class _RankGroup:
    """The processes of a trial's ranks. `logs` hold the standard error of each."""

    def __init__(
        self,
        children: list[subprocess.Popen[str]],
        logs: Sequence[IO[str]],
        heartbeats: Heartbeats,
    ) -> None:
        self._children, self._logs, self._heartbeats = children, logs, heartbeats
        self._terminated = False  # whether SIGTERM was sent to the ranks
        self._first_left: float | None = None  # when the first preempted rank ended

    def watch(self, report: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> None:
        """Pass the first rank's reports on until all ranks have ended. Raises: RankError."""
        lines: SimpleQueue[str] = SimpleQueue()
        stream = self._children[0].stdout
        assert stream is not None
        reader = threading.Thread(target=_read, args=(stream, lines), daemon=True)
        reader.start()
        while True:
            codes = [child.poll() for child in self._children]
            alive = [rank for rank, code in enumerate(codes) if code is None]
            left = self._preempted(codes)
            self._check(codes, alive, left)
            if stop() or left:
                self._terminate(alive)
            if not alive:
                # Read to the end of the pipe, but not for ever: a grandchild may hold it open.
                reader.join(PEER_SECONDS)
            try:
                line = lines.get(timeout=0.1 if alive else 0)
            except Empty:
                if alive:
                    continue
                break
            pass_on(line, report)
        if left:
            raise self._preemption(left)

    def _preempted(self, codes: list[int | None]) -> list[int]:
        """Ranks that left: with their state saved, or killed before they could handle SIGTERM.

        A rank may also get SIGTERM from elsewhere (a scheduler), before this process does.
        """
        endings = (*LEFT, -signal.SIGTERM) if self._terminated else LEFT
        left = [rank for rank, code in enumerate(codes) if code in endings]
        if left and self._first_left is None:
            self._first_left = time.monotonic()
        return left

    def _terminate(self, alive: list[int]) -> None:
        if not self._terminated:
            self._terminated = True
            for rank in alive:
                self._children[rank].send_signal(signal.SIGTERM)

    def _preemption(self, left: list[int]) -> RankError:
        codes = {rank: self._children[rank].returncode for rank in left}
        return preemption(
            [RankError(rank, code, last_line(self._logs[rank])) for rank, code in codes.items()]
        )

    def _check(self, codes: list[int | None], alive: list[int], left: list[int]) -> None:
        """Raises: RankError where a rank failed, is silent, or does not leave after SIGTERM."""
        if any(code for rank, code in enumerate(codes) if rank not in left):
            raise _first_failure(self._children, self._logs, left)
        silent = self._heartbeats.silent(alive)
        if silent is not None:
            ending = f"sent no heartbeat for {self._heartbeats.limit:g} s"
            message = f"{SILENT_VARIABLE} sets the limit"
            raise RankError(silent, -signal.SIGKILL, message, ending)
        if self._first_left is not None and time.monotonic() - self._first_left > LEAVE_SECONDS:
            raise self._preemption(left)


def _read(stream: IO[str], lines: SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)


def _first_failure(
    children: list[subprocess.Popen[str]], logs: Sequence[IO[str]], left: list[int]
) -> RankError:
    """The error of the rank that most likely caused the failure, see `likely_cause`."""
    first = [rank for rank, child in enumerate(children) if child.poll() and rank not in left]
    end = time.monotonic() + PEER_SECONDS
    while time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(0.05)
    return likely_cause(
        [
            RankError(rank, child.returncode, last_line(logs[rank]))
            for rank, child in enumerate(children)
            if child.poll() and rank not in left
        ],
        first,
    )


def likely_cause(failed: list[RankError], first: Sequence[int]) -> RankError:
    """Which of several failures most likely caused the others.

    A rank's death closes its connections, so its peers fail soon after it, and may even be seen
    first. A rank killed by a signal is preferred, then one whose message is not about a
    connection, then one of those seen `first`.
    """

    def likelihood(error: RankError) -> tuple[bool, bool, bool]:
        return error.code < 0, not error.is_about_connection, error.rank in first

    return max(failed, key=likelihood)


def preemption(left: list[RankError]) -> RankError:
    """One error, with a code of LEFT, for ranks that left.

    Where one of them reached the time limit, it is its error: the others may leave as its peers.
    """
    for code in reversed(LEFT):
        for error in left:
            if error.code == code:
                return error
    message = "SIGTERM came before training began; the same command again continues"
    return RankError(left[0].rank, PREEMPTED, message)


def last_line(log: IO[str]) -> str:
    """The last line that a rank wrote to its standard error."""
    log.seek(0)
    lines = log.read().strip().splitlines() or ["no message"]
    return lines[-1].removeprefix("error: ")
