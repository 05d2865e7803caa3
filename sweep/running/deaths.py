"""Why a trial's actor died, in one line: Ray's own message has ten lines and no exit status."""

from __future__ import annotations

import re
from pathlib import Path

import ray
from ray._private import worker
from ray.exceptions import RayError

from shards.support.command import one_line

LAST_LINES = 2
ANSWER_SECONDS = 10.0  # of another machine, on which Ray may first have to start a process
LONGEST = 1000  # characters
FATAL = re.compile(r"Fatal Python error|SIG[A-Z]+ received|MemoryError")


def why(message: str, logs: Path | None) -> str:
    """A sentence about the death that Ray's `message` reports.

    logs: folder of this machine's Ray logs. A process that has none in it ran on another machine,
    where its log is read; None: not connected to Ray.
    """
    if "node has died" in message or "node was terminated" in message:
        return "its node died"
    found = re.search(r"\bpid: (\d+)", message)
    if found is None:
        return (
            one_line(message.strip().splitlines()[-1])[:LONGEST] if message.strip() else "it died"
        )
    pid, place = found[1], re.search(r"\bip: (\S+)", message)
    sentence = f"its process {pid}{f' on {place[1]}' if place else ''} died"
    if "out of memory" in message.lower() and "OOM killer" not in message:
        sentence += " because memory ran out"
    last = _last_lines(pid, logs) if logs is not None else []
    if logs is not None and not last and place:
        last = elsewhere(pid, place[1])
    return (sentence + (f"; its log ends: {' | '.join(last)}" if last else ""))[:LONGEST]


def _last_lines(pid: str, logs: Path) -> list[str]:
    """What its log says about a fatal error, and how it ends."""
    text = "\n".join(p.read_text(errors="replace") for p in logs.glob(f"worker-*-{pid}.err"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if FATAL.search(line)][:1]
    return fatal or lines[-LAST_LINES:]


def elsewhere(pid: str, address: str) -> list[str]:
    """The same of a process on another machine; nothing where that does not answer in time."""
    # The resource that every node has of its own address.
    node = f"node:{address}"
    if not ray.is_initialized() or node not in ray.cluster_resources():
        return []

    def lines() -> list[str]:
        logs = local_logs()
        return _last_lines(pid, logs) if logs else []

    # No core, as those may all be in use.
    reading = ray.remote(num_cpus=0, resources={node: 0.001}, max_retries=0)(lines).remote()
    try:
        return ray.get(reading, timeout=ANSWER_SECONDS)
    except (RayError, OSError):
        ray.cancel(reading)
        return []


def local_logs() -> Path | None:
    """The folder of the logs of the Ray on this machine."""
    node = worker._global_node
    return None if node is None else Path(node.get_logs_dir_path())
