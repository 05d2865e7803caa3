"""The local record of a sweep: one JSON object a line, fsynced, append only.

    {"event": "start",  "trial": ID, "config": {...}, "time_ms": T}
    {"event": "epoch",  "trial": ID, "step": S, "values": {"loss": ...}, "time_ms": T}
    {"event": "result", "trial": ID, "record": {...}, "time_ms": T}
    {"event": "failed", "trial": ID, "config": {...}, "error": "one line", "time_ms": T}
    {"event": "probe",  "trial": ID, "step": S, "result": {...}, "time_ms": T}

Everything else (MLflow, the table, the report) is made from it. An epoch that a resumed trial
reports again, and a result that is there already, are not written twice. `probe` is a probe run
again on a finished trial, see trainers.results.reprobed; one of other settings or version is
another event.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers.results.reprobed import key_of

NAME = "journal.jsonl"


def read_events(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset behind the line, event) from byte `start`; a cut last line is ignored."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        before = stream.read(start).count(b"\n")
        for number, line in enumerate(stream, before + 1):
            if not line.endswith(b"\n"):
                return
            start += len(line)
            try:
                event = json.loads(line)
                _ = event["event"], event["trial"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{path}: line {number} is not an event; remove that line, the same command "
                    "restores it from the trial's own result"
                ) from None
            yield start, event


class Journal:
    """Appends events of one sweep. Safe to use from several threads of one process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str, int | str]] = set()
        end = 0
        for offset, event in read_events(self.path):
            end = offset
            self._seen.add(self._key(event))
        self._stream = self.path.open("ab")
        if self.path.stat().st_size > end:  # a line that a killed process left unfinished
            self._stream.truncate(end)

    @staticmethod
    def _key(event: dict[str, Any]) -> tuple[str, str, int | str]:
        which: int | str = int(event.get("step", 0))
        if event["event"] == "probe":
            which = json.dumps(key_of(event["result"]), sort_keys=True)
        return event["event"], event["trial"], which

    def has(self, event: str, trial: str) -> bool:
        return (event, trial, 0) in self._seen

    def append(self, event: str, trial: str, **fields: Any) -> None:
        """Write and fsync. `failed` may repeat; other events are written once."""
        entry = {"event": event, "trial": trial, "time_ms": int(time.time() * 1000)} | fields
        with self._lock:
            if event != "failed" and self._key(entry) in self._seen:
                return
            self._seen.add(self._key(entry))
            self._stream.write(json.dumps(entry).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()
