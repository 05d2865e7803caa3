"""A worker that has lost its head shuts itself down, so that no machine is billed for nothing.

Only the head terminates workers. When it dies, their Ray processes end, but the machines go on.
Connections to the head's control store tell the two apart, since they are refused as soon as it has
ended, also where its machine is still up.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence

LOOK_SECONDS = 30.0
CONNECT_SECONDS = 10.0


def watch(head: str, minutes: float, command: Sequence[str], every: float = LOOK_SECONDS) -> int:
    """Wait until nothing has answered at `head` (HOST:PORT) for so long, then run `command`.

    every: seconds between two looks. Returns the exit status of `command`.
    Raises: ValueError for an address without a port; OSError where `command` cannot be started.
    """
    host, _, port = head.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"`{head}`: write the head's address as HOST:PORT")
    answered = time.monotonic()
    while time.monotonic() - answered < 60 * minutes:
        if _answers(host.strip("[]"), int(port)):
            answered = time.monotonic()
        time.sleep(every)
    print(
        f"nothing has answered at {head} for {minutes:g} minutes: {' '.join(command)}", flush=True
    )
    return subprocess.run(command, check=False).returncode


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
