"""The actor of one rank of a gang: it runs the rank as a child process on its node.

A child, because the same code then runs under torchrun, under `trainers.trial` and here, and
because its main thread receives SIGTERM. The child dies with this process. Nothing that this module
imports takes long: only the child needs torch.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray

from shards.support.child_process import Heartbeats, child_command

POLL_SECONDS = 1.0  # how long `poll` waits for news
LAST_LINES = 3  # of the rank's standard error


@dataclass(frozen=True)
class News:
    """What happened to a rank since the last call of `poll`.

    lines: of its standard output. code: its exit status, None while it runs. log: the last lines
    of its standard error, once it has ended. ending: how it ended, where the exit status does not
    show that.
    """

    lines: list[str] = field(default_factory=list)
    code: int | None = None
    log: list[str] = field(default_factory=list)
    ending: str = ""


@dataclass(frozen=True)
class Rank:
    """How a rank is started.

    code, arguments: of its Python process, see `child_command`. environment: added to that of the
    actor. document: its standard input. limit: seconds without a heartbeat after which it is
    killed.
    """

    code: str
    arguments: list[str]
    environment: dict[str, str]
    document: str
    limit: float


def interface_of(address: str) -> str | None:
    """The network interface that has this address, None where no interface has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            return name
    return None


def _interface_variables() -> dict[str, str]:
    """Without them the backends look up the host's name, which often is a loopback address."""
    found = interface_of(ray.util.get_node_ip_address())
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: found for name in names if found is not None and name not in os.environ}


class RankHost:
    """Starts a rank, and reports on it. Two threads call it at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._end: News | None = None
        self._child: subprocess.Popen[str] | None = None
        self._terminated = False

    def start(self, rank: Rank) -> None:
        """Start the rank."""
        # The kernel ends the child when the thread that started it ends, so that must be one that
        # lives as long as the child.
        threading.Thread(target=self._run, args=(rank,), daemon=True).start()

    def poll(self) -> News:
        """What is new, or nothing after POLL_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._end, POLL_SECONDS)
            lines, self._lines = self._lines, []
            end = self._end or News()
            return News(lines, end.code, end.log, end.ending)

    def terminate(self) -> None:
        """Send SIGTERM to the rank, so that it saves its state and leaves."""
        with self._changed:
            self._terminated = True
            if self._child is not None:
                self._child.terminate()

    def _run(self, rank: Rank) -> None:
        with ExitStack() as stack:
            try:
                end = self._supervise(stack, rank)
            except Exception as error:
                end = News(code=1, log=[f"{type(error).__name__}: {error}"])
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _supervise(self, stack: ExitStack, rank: Rank) -> News:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        heartbeat, standard_input = folder / "heartbeat", folder / "standard_input"
        heartbeat.touch()
        standard_input.write_text(rank.document, encoding="utf-8")
        log = stack.enter_context((folder / "log").open("w+", encoding="utf-8", errors="replace"))
        child = subprocess.Popen(
            child_command(rank.code, rank.arguments, heartbeat=heartbeat),
            env=os.environ | _interface_variables() | rank.environment,
            stdin=stack.enter_context(standard_input.open()),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stack.callback(child.wait)
        stack.callback(child.kill)
        with self._changed:
            self._child = child
            if self._terminated:
                child.terminate()
        reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        reader.start()
        beats, ending = Heartbeats([heartbeat], rank.limit), ""
        while child.poll() is None:
            if beats.silent([0]) is not None:
                ending = f"sent no heartbeat for {rank.limit:g} s"
                child.kill()
            time.sleep(0.05)
        reader.join(POLL_SECONDS)  # but not for ever: a grandchild may hold the pipe open
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()][-LAST_LINES:]
        return News(code=child.returncode, log=lines, ending=ending)

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
