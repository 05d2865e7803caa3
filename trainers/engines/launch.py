"""Start the ranks of a trial on this machine and watch over them as one.

The first rank reports on its standard output, one JSON object a line. When one rank dies, the
others are ended; when this process dies, the kernel ends all of them (on Linux).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import IO, Any

PREFIX = "@report "
GRACE = 1.0  # seconds in which peers of a dead rank may show that they died of it
# In the child, before any heavy import: die with the parent (PR_SET_PDEATHSIG = 1).
BOOT = """\
import ctypes, os, runpy, signal, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("its parent is gone")
runpy.run_module("trainers.trial", run_name="__main__", alter_sys=True)
"""


class RankError(RuntimeError):
    """A rank ended badly; `code` is its exit status, negative for a signal."""

    def __init__(self, rank: int, code: int, said: str) -> None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        super().__init__(f"rank {rank} {how}: {said}")
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
    leave: Callable[[], bool] = lambda: False,
) -> None:
    """Run `python -m trainers.trial ARGUMENTS` as `ranks` ranks until all have ended well.

    Once `leave()` is true, each gets SIGTERM.
    Errors: RankError with the last line of the rank that failed first; all have ended by then.
    """
    port = free_port()
    children: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        try:
            for rank, log in enumerate(logs):
                env = os.environ | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
                child = subprocess.Popen(
                    [sys.executable, "-c", BOOT, str(os.getpid()), *arguments],
                    env=env,
                    stdout=log if rank else subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                children.append(child)
            _watch(children, logs, report, leave)
        finally:
            for child in children:
                child.kill()
            for child in children:
                child.wait()


def _watch(
    children: list[subprocess.Popen[str]],
    logs: Sequence[IO[str]],
    report: Callable[[dict[str, Any]], None],
    leave: Callable[[], bool],
) -> None:
    """Pass the first rank's reports on until all ranks have ended."""
    lines: SimpleQueue[str] = SimpleQueue()
    stream = children[0].stdout
    assert stream is not None
    reader = threading.Thread(target=_read, args=(stream, lines), daemon=True)
    reader.start()
    told = False
    while True:
        if leave() and not told:
            told = True
            for child in children:
                child.terminate()
        alive = any(child.poll() is None for child in children)
        if any(child.poll() for child in children):
            raise _blame(children, logs)
        if not alive:
            reader.join(GRACE)  # a grandchild may hold the pipe open: do not wait for ever
        try:
            line = lines.get(timeout=0.1 if alive else 0)
        except Empty:
            if alive:
                continue
            return
        if line.startswith(PREFIX):
            report(json.loads(line[len(PREFIX) :]))


def _read(stream: IO[str], lines: SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line)


def _blame(children: list[subprocess.Popen[str]], logs: Sequence[IO[str]]) -> RankError:
    """The rank to name: one killed by a signal, else the first seen to end badly.

    A rank's death closes its connections, so its peers soon end badly too.
    """
    first = [rank for rank, child in enumerate(children) if child.poll()]
    end = time.monotonic() + GRACE
    while time.monotonic() < end and any(child.poll() is None for child in children):
        time.sleep(0.05)
    failed = [rank for rank, child in enumerate(children) if child.poll()]
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
