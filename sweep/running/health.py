"""Whether Ray still lives: its processes on this machine, and its control process elsewhere.

Without this, a driver whose raylet was killed waits for ever, and one whose control process (GCS)
was killed ends after a minute with a message of Ray's C++ code.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray
from ray._private import worker

POLL_SECONDS = 1.0
# Seconds without an answer after which a control process on another machine is taken for dead.
# Ray itself gives up after 60.
SILENT_SECONDS = 30.0
CONNECT_SECONDS = 5.0


class Processes:
    """The raylet that this process uses and, where it runs on this machine, the control process."""

    def __init__(self) -> None:
        node: Any = worker._global_node
        self._named: dict[str, psutil.Process] = {}
        for process in psutil.process_iter(["name", "cmdline"]):
            # The whole option: sockets of several nodes on a machine begin with the same name.
            option = f"--raylet_socket_name={node.raylet_socket_name}"
            if process.info["name"] == "raylet" and option in (process.info["cmdline"] or []):
                self._named["raylet"] = process
        for started in node.all_processes.get("gcs_server", []):
            self._named["control process (GCS)"] = psutil.Process(started.process.pid)

    def dead(self) -> str:
        """Which of them has ended; empty while all run."""
        for name, process in self._named.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    continue
            return name
        return ""


class ControlAddress:
    """Whether the control process answers at its address."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        host, _, port = address.rpartition(":")
        self._place, self._clock = (host.strip("[]"), int(port)), clock
        self._answered = clock()

    def dead(self) -> str:
        """A clause, once it has not answered for SILENT_SECONDS; else empty."""
        with contextlib.suppress(OSError):
            socket.create_connection(self._place, CONNECT_SECONDS).close()
            self._answered = self._clock()
        if self._clock() - self._answered < SILENT_SECONDS:
            return ""
        host, port = self._place
        return f"control process at {host}:{port}"


@contextlib.contextmanager
def watched(
    on_dead: Callable[[str], None], each: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside the block, `on_dead` is called in a thread, once, when Ray has died under it.

    on_dead: gets which of its processes. each: called about once a second as long as Ray lives.
    """
    if worker._global_node is None:  # connected by ray://: Ray's own server does all of this
        yield
        return
    looks = [Processes().dead, ControlAddress(ray.get_runtime_context().gcs_address).dead]
    over = threading.Event()

    def look() -> None:
        while not over.wait(POLL_SECONDS):
            for dead in looks:
                name = dead()
                if name and not over.is_set():
                    on_dead(name)
                    return
            with contextlib.suppress(Exception):  # it asks Ray, which may die in that moment
                each()

    thread = threading.Thread(target=look, daemon=True, name="health")
    thread.start()
    try:
        yield
    finally:
        over.set()
