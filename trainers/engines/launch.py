"""Start the ranks of a trial on this machine and watch over them as one.

The first rank reports on its standard output, one JSON object a line. When one rank dies, the
others are ended; when this process dies, the kernel ends all of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

PREFIX = "@report "


def report_line(values: dict[str, Any]) -> str:
    return PREFIX + json.dumps(values)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(ranks: int, arguments: list[str], report: Callable[[dict[str, Any]], None]) -> None:
    """Run `python -m trainers.trial ARGUMENTS` as `ranks` ranks until all have ended well.

    Errors: RuntimeError with the last line of the first rank that failed.
    """
    port, children, logs = free_port(), [], []
    try:
        for rank in range(ranks):
            env = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            log = tempfile.TemporaryFile("w+")
            logs.append(log)
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "trainers.trial", *arguments],
                    env=env,
                    stdout=subprocess.PIPE if rank == 0 else log,
                    stderr=log,
                    text=True,
                    preexec_fn=_die_with_parent,
                )
            )
        _watch(children, logs, report)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
        for log in logs:
            log.close()


def _watch(
    children: list[subprocess.Popen[str]],
    logs: list[IO[str]],
    report: Callable[[dict[str, Any]], None],
) -> None:
    stdout = children[0].stdout
    if stdout is None:
        raise RuntimeError("rank 0 has no standard output")
    selector = selectors.DefaultSelector()
    selector.register(stdout, selectors.EVENT_READ)
    open_pipe = True
    while open_pipe or any(child.poll() is None for child in children):
        if open_pipe and selector.select(timeout=0.2):
            line = stdout.readline()
            open_pipe = bool(line)
            if line.startswith(PREFIX):
                report(json.loads(line[len(PREFIX) :]))
        elif not open_pipe:
            time.sleep(0.05)
        for rank, child in enumerate(children):
            if child.poll():
                logs[rank].seek(0)
                lines = logs[rank].read().strip().splitlines() or ["no output"]
                raise RuntimeError(f"rank {rank} ended with code {child.returncode}: {lines[-1]}")
