"""Which process: its machine, number and time of start, and whether it still runs."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from pathlib import Path

from shards.support.schema import StrictModel

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Process(StrictModel):
    """A process, told apart from every other one.

    Attributes:
        host: name of its machine.
        system: of the running kernel and its process numbers: containers of one machine differ.
            Empty where the system does not tell.
        pid: its number.
        started: ticks from the machine's start to its own, since numbers are used again; None
            where the system does not tell.
    """

    host: str
    system: str
    pid: int
    started: int | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), system=_system(), pid=pid, started=_state(pid)[1])


def has_ended(process: Process) -> bool:
    """Whether it certainly has; False where it may run, for example on another machine."""
    if not _is_here(process):
        return False
    state, started = _state(process.pid)
    return state in ("", "Z", "X") or started != process.started


def is_running(process: Process) -> bool:
    """Whether it certainly runs; False where it may not, or is suspended (SIGSTOP)."""
    if not _is_here(process):
        return False
    state, started = _state(process.pid)
    return state not in ("", "Z", "X", "T", "t") and started == process.started


def _is_here(process: Process) -> bool:
    return bool(process.system) and (process.host, process.system) == (
        socket.gethostname(),
        _system(),
    )


@functools.cache
def _system() -> str:
    """Of the kernel since its start, and of the name space of process numbers; "" outside Linux."""
    with contextlib.suppress(OSError):
        return f"{BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _state(pid: int) -> tuple[str, int | None]:
    """(state letter, start) by proc(5); ("", None) where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", None
    fields = text[text.rindex(")") + 2 :].split()  # a program's name may hold spaces and brackets
    return fields[0], int(fields[19])
