"""How far a tracking server has taken over a journal, trial by trial; kept in a file beside it.

The file may be older than what the server has, never newer: after a crash some events are sent
again, which the server stores once, and none is left out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shards.support import storage
from sweep.journal.events import NAME, Event, LimitEvent, read_events

CHUNK = 5000  # events that are read before any of them is sent; bounds the memory of a first upload
SAVE_EVERY_S = 1.0  # the file is synced to disk, so not after each of thousands of short uploads


class _State(BaseModel):
    """Content of the file.

    end: every event before this byte of the journal is acknowledged, except those of
    behind: {trial: byte from which its events are not acknowledged}.
    status: in which the sweep's own run was last left. experiment: its id on the server.
    """

    end: int = 0
    behind: dict[str, int] = {}
    status: str = ""
    experiment: str = ""


class Acknowledged:
    """What one tracking server has of one journal."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._journal = folder / NAME
        digest = hashlib.sha256(uri.encode()).hexdigest()[:8]
        self._path = folder / f".uploaded-{digest}"
        self._saved_at = 0.0
        self._state = self._load()

    def _load(self) -> _State:
        """The file's content; that of a server that has nothing where it does not fit the journal.

        A line may have been removed from the journal by hand, which an error about it recommends.
        """
        try:
            state = _State.model_validate_json(self._path.read_bytes())
            if state.end:
                with self._journal.open("rb") as stream:
                    stream.seek(state.end - 1)
                    if stream.read(1) != b"\n":
                        return _State()
        except (OSError, ValueError):
            return _State()
        return state

    def restart(self) -> None:
        """The server has nothing (any more): everything is to be sent."""
        self._state = _State()

    @property
    def behind(self) -> list[str]:
        """Trials that have events before `end` which are not acknowledged."""
        return list(self._state.behind)

    @property
    def status(self) -> str:
        return self._state.status

    @status.setter
    def status(self, status: str) -> None:
        self._state.status = status

    @property
    def experiment(self) -> str:
        return self._state.experiment

    @experiment.setter
    def experiment(self, experiment: str) -> None:
        self._state.experiment = experiment

    def share(self) -> float:
        """How much of the journal is acknowledged, 0 to 1, by bytes."""
        size = self._journal.stat().st_size if self._journal.exists() else 0
        first = min([self._state.end, *self._state.behind.values()])
        return first / size if size else 1.0

    def has_new(self) -> bool:
        """Whether the journal has events behind `end`, perhaps an unfinished line only."""
        return self._journal.exists() and self._journal.stat().st_size > self._state.end

    def read_new(self) -> dict[str, list[Event]] | None:
        """Up to CHUNK further events by trial, None where there are none.

        Their trials are behind until `acknowledge`. A trial that was behind before is left out:
        its earlier events must be sent first.
        """
        state = self._state
        was_behind, found, before = set(state.behind), dict[str, list[Event]](), state.end
        for number, (start, end, event) in enumerate(_events(self._journal, state.end), 1):
            if event.trial not in was_behind:
                state.behind.setdefault(event.trial, start)
                found.setdefault(event.trial, []).append(event)
            state.end = end
            if number == CHUNK:
                break
        return found if state.end > before else None

    def read_behind(self, trials: list[str]) -> dict[str, list[Event]]:
        """Events of trials that are behind, up to `end`, in the order of `trials`."""
        found: dict[str, list[Event]] = {trial: [] for trial in trials}
        if not trials:
            return found
        starts = {trial: self._state.behind[trial] for trial in trials}
        for start, end, event in _events(self._journal, min(starts.values())):
            if end > self._state.end:
                break
            if start >= starts.get(event.trial, end):
                found[event.trial].append(event)
        return found

    def read_from_start(self, trial: str) -> list[Event]:
        """All events of a trial up to `end`."""
        read = _events(self._journal, 0)
        return [event for _, end, event in read if end <= self._state.end and event.trial == trial]

    def acknowledge(self, trial: str) -> None:
        """The server has all events of a trial up to `end`."""
        self._state.behind.pop(trial, None)
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self.save()

    def postpone(self, trial: str) -> None:
        """Put a trial behind the others that are behind, so that it does not hold them up."""
        if trial in self._state.behind:
            self._state.behind[trial] = self._state.behind.pop(trial)

    def save(self) -> None:
        """Write the file, if it would change. Raises: OSError."""
        content = json.dumps(self._state.model_dump()).encode()
        if not self._path.exists() or self._path.read_bytes() != content:
            storage.write(str(self._path), content)
        self._saved_at = time.monotonic()


def _events(journal: Path, start: int) -> Iterator[tuple[int, int, Any]]:
    """(first byte of the line, first byte behind it, event of a trial) from byte `start`."""
    for end, event in read_events(journal, start):
        if not isinstance(event, LimitEvent):
            yield start, end, event
        start = end
