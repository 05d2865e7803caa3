"""The actor of one rank of a gang: it runs the rank as a child process on its node.

A child, because the same code then runs under torchrun, under `trainers.trial` and here, and
because its main thread receives SIGTERM. The child dies with this process. Nothing that this module
imports takes long: only the child needs torch. Ranks without a GPU are forked from a process that
has imported it, which serves one trial after the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import psutil
import ray

from shards.support.child_process import Heartbeats, child_command
from shards.support.warm_process import WarmChild, WarmProcess
from sweep.running import leaving

POLL_SECONDS = 1.0  # how long `poll` waits for news
LAST_LINES = 3  # of the rank's standard error
# What ranks import. The last one takes as long as torch itself; engines of several ranks load it.
MODULES = ("trainers.trial", "torch._dynamo")


@dataclass(frozen=True)
class News:
    """What happened to a rank since the last call of `poll`.

    lines: of its standard output. code: its exit status, None while it runs. log: the last lines
    of its standard error, once it has ended. ending: how it ended, where the exit status does not
    show that. terminated: whether it had been sent SIGTERM, to save its state and leave.
    """

    lines: list[str] = field(default_factory=list)
    code: int | None = None
    log: list[str] = field(default_factory=list)
    ending: str = ""
    terminated: bool = False


@dataclass(frozen=True)
class Rank:
    """How a rank is started.

    code, arguments: of its Python process, see `child_command`. environment: added to that of the
    actor. document: its standard input. limit: seconds without a heartbeat after which it is
    killed. sweep: under whose name the trials of a node are requested to leave it; empty for none.
    """

    code: str
    arguments: list[str]
    environment: dict[str, str]
    document: str
    limit: float
    sweep: str = ""


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


Child = subprocess.Popen[str] | WarmChild


class RankHost:
    """Starts a rank, and reports on it; then perhaps another one. Two threads call it at a time.

    warm: whether ranks are forked from a process that has imported what they need.
    """

    def __init__(self, warm: bool = False) -> None:
        self._warm = warm
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._end: News | None = None
        self._child: Child | None = None
        self._terminated = self._watching = self._killed = False
        self._ranks: SimpleQueue[Rank] = SimpleQueue()
        # The kernel ends a child when the thread that started it ends, so that must be one that
        # lives as long as the child.
        threading.Thread(target=self._serve, daemon=True).start()

    def ready(self) -> None:
        """Nothing; that it answers shows that this process lives."""

    def start(self, rank: Rank) -> None:
        """Start the rank. The one before it, if any, has ended."""
        if rank.sweep and not self._watching:
            self._watching = True
            leaving.watch_node(rank.sweep, self.terminate)
        with self._changed:
            self._lines, self._end, self._child = [], None, None
            self._killed = False
            self._terminated = leaving.requested()  # while no rank ran
        self._ranks.put(rank)

    def poll(self) -> News:
        """What is new, or nothing after POLL_SECONDS."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._end, POLL_SECONDS)
            lines, self._lines = self._lines, []
            end = self._end or News()
            return News(lines, end.code, end.log, end.ending, self._terminated)

    def terminate(self) -> None:
        """Send SIGTERM to the rank, so that it saves its state and leaves."""
        with self._changed:
            self._terminated = True
            if self._child is not None and self._end is None:
                self._child.terminate()

    def kill(self) -> None:
        """End the rank at once, and return when it has ended."""
        with self._changed:
            self._killed = True
            if self._child is not None:
                self._child.kill()
            self._changed.wait_for(lambda: self._end)

    def _serve(self) -> None:
        server: WarmProcess | None = None
        while True:
            if self._warm and not (server and server.alive()):
                server = WarmProcess(MODULES, self._take)
            rank = self._ranks.get()
            with ExitStack() as stack:
                try:
                    end = self._supervise(stack, rank, server)
                except Exception as error:
                    end = News(code=1, log=[f"{type(error).__name__}: {error}"])
            with self._changed:
                self._end = end
                self._changed.notify_all()

    def _supervise(self, stack: ExitStack, rank: Rank, server: WarmProcess | None) -> News:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        heartbeat, standard_input = folder / "heartbeat", folder / "standard_input"
        heartbeat.touch()
        standard_input.write_text(rank.document, encoding="utf-8")
        log = stack.enter_context((folder / "log").open("w+", encoding="utf-8", errors="replace"))
        environment = os.environ | _interface_variables() | rank.environment
        reader: threading.Thread | None = None
        child: Child
        if server is not None:
            files = {"input": standard_input, "log": folder / "log", "heartbeat": heartbeat}
            try:
                # Ranks of one gang have one port.
                name = f"rank {rank.environment['RANK']}:{rank.environment.get('MASTER_PORT', '')}"
                child = server.start(rank.code, rank.arguments, environment, files, name)
            except RuntimeError as error:
                return News(code=-signal.SIGKILL, ending=f"was not started: {error}")
        else:
            child = subprocess.Popen(
                child_command(rank.code, rank.arguments, heartbeat=heartbeat),
                env=environment,
                stdin=stack.enter_context(standard_input.open()),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            reader = threading.Thread(target=self._read, args=(child,), daemon=True)
            reader.start()
        stack.callback(child.wait)
        stack.callback(child.kill)
        with self._changed:
            self._child = child
            if self._terminated:
                child.terminate()
            if self._killed:
                child.kill()
        beats, ending = Heartbeats([heartbeat], rank.limit), ""
        while child.poll() is None:
            if beats.silent([0]) is not None:
                ending = f"sent no heartbeat for {rank.limit:g} s"
                child.kill()
            time.sleep(0.05)
        if reader is not None:
            reader.join(POLL_SECONDS)  # but not for ever: a grandchild may hold the pipe open
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()][-LAST_LINES:]
        return News(code=child.returncode, log=lines, ending=ending)

    def _read(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                self._take(line)

    def _take(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()
