"""The journal of a sweep: one JSON object a line, fsynced, append only.

    {"event": "start",  "trial": ID, "time_ms": T, "config": {...}}
    {"event": "epoch",  "trial": ID, "time_ms": T, "step": S, "values": {"loss": ...}}
                                            and "observed": {NAME: value} where that was measured
    {"event": "result", "trial": ID, "time_ms": T, "record": {...}, "result": PATH, ...}
    {"event": "failed", "trial": ID, "time_ms": T, "config": {...}, "error": "one line"}
    {"event": "stopped", "trial": ID, "time_ms": T, "config": {...}, "error": "why, in one line"}
    {"event": "probe",  "trial": ID, "time_ms": T, "step": S, "result": {...}}
    {"event": "limit",  "trial": "", "time_ms": T, "reason": "why no more trials are started"}

Everything else (MLflow, the table, the report) is derived from it; it is itself derived from the
trials' own journals and results in the store (`sweep.journal.stored`), from which it can be made
again. It holds numbers only: arrays stay in the result in the store, which it names.

An epoch that a resumed trial reports again and a result that is already recorded are not written
twice. A trial that was run again from its beginning, because its folder was deleted, has another
result: it is written behind the first one, with a start that says `"again": true` and its epochs,
and counts in place of all before that start. `probe` is a probe run again on a finished trial, see
trainers.results.reprobed; each measurement is one event. `stopped` is a trial that early stopping
ended: no failure, and without a result, since the test images were not read for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from shards.support import storage
from shards.support.schema import validated
from trainers.results.record import Part, TrialResult, parse_result
from trainers.results.reprobed import Reprobed, parse_reprobed

NAME = "journal.jsonl"
Document = dict[str, Any]


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts them."""
    return int(time.time() * 1000)


class _Event(Part):
    trial: str
    time_ms: int = Field(default_factory=now_ms)


class StartEvent(_Event):
    """A trial was given to a worker, or its finished result was found.

    again: whether it had another result before, which this run of it replaces.
    """

    event: Literal["start"] = "start"
    config: dict[str, Any]
    again: bool = False


class EpochEvent(_Event):
    """One row of the training log.

    observed: what was measured at its step; empty in journals of earlier versions, where the result
    alone has it.
    """

    event: Literal["epoch"] = "epoch"
    step: int
    values: dict[str, float]
    observed: dict[str, float] = Field(default_factory=dict[str, float])


class ResultEvent(_Event):
    """A finished trial.

    record: without arrays, except in journals of earlier versions; it may be of format 1 in a file,
    and is converted on reading. seconds: of all attempts, see `Attempts`; None in earlier versions.
    result: path of the whole result under the store's root, "" in earlier versions. bank: location
    of the bank that the trial read. commit: of the trial's code.
    """

    event: Literal["result"] = "result"
    record: TrialResult
    seconds: float | None = None
    result: str = ""
    bank: str = ""
    commit: str = ""

    @field_validator("record", mode="before")
    @classmethod
    def _of_any_format(cls, value: Any) -> Any:
        return parse_result(cast(Document, value)) if isinstance(value, dict) else value


class FailedEvent(_Event):
    """A trial that ended without a result."""

    event: Literal["failed"] = "failed"
    config: dict[str, Any]
    error: str


class StoppedEvent(_Event):
    """A trial that was stopped early; `error` says when and why."""

    event: Literal["stopped"] = "stopped"
    config: dict[str, Any]
    error: str


class ProbeEvent(_Event):
    """What a probe run again adds to the trial's result; `step` is the trial's last."""

    event: Literal["probe"] = "probe"
    step: int
    result: Reprobed

    @field_validator("result", mode="before")
    @classmethod
    def _of_any_format(cls, value: Any) -> Any:
        return parse_reprobed(cast(Document, value)) if isinstance(value, dict) else value


class LimitEvent(_Event):
    """`--budget` or `--deadline` was reached: no more trials are started. It is of no trial."""

    event: Literal["limit"] = "limit"
    trial: str = ""
    reason: str


Event = StartEvent | EpochEvent | ResultEvent | FailedEvent | StoppedEvent | ProbeEvent | LimitEvent
WITHOUT_RESULT = (FailedEvent, StoppedEvent)  # how a trial may end; these may repeat
KINDS: dict[str, type[Event]] = {
    "start": StartEvent,
    "epoch": EpochEvent,
    "result": ResultEvent,
    "failed": FailedEvent,
    "stopped": StoppedEvent,
    "probe": ProbeEvent,
    "limit": LimitEvent,
}


def digest_of(record: TrialResult) -> str:
    """A hash of a result without its arrays, its times included: each run of a trial has its own.

    16 hexadecimal digits.
    """
    fields = record.without_arrays().as_json()
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def parse_event(line: bytes) -> Event:
    """One line. Raises: ValueError for what is not an event."""
    try:
        document = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    fields = cast(Document, document) if isinstance(document, dict) else Document()
    kind = str(fields.get("event"))
    if kind not in KINDS:
        start = line[:40].decode(errors="replace").strip()
        raise ValueError(f"got {start!r}; expected an event of {', '.join(KINDS)}")
    return validated(KINDS[kind], fields)


def read_events(path: Path, start: int = 0) -> Iterator[tuple[int, Event]]:
    """(offset behind the line, event) from byte `start`; a last line without its end is ignored.

    A process killed while it wrote leaves such a line. Raises: ValueError by file and line for
    any other line that is not an event.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            try:
                event = parse_event(line)
            except ValueError as error:
                # Lines are counted only now: nobody reads from the start to follow a journal.
                number = _line_number(path, start)
                raise ValueError(
                    f"{path}:{number}: {error}; remove that line, `sweep.run` restores it from the "
                    "trial's result"
                ) from None
            start += len(line)
            yield start, event


def _line_number(path: Path, start: int) -> int:
    """Of the line that begins at byte `start`."""
    with path.open("rb") as stream:
        return stream.read(start).count(b"\n") + 1


class Journal:
    """Appends events of one sweep. Safe to use from several threads of one process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str, int | str, int]] = set()
        self._runs: dict[str, int] = {}  # how often each trial was run again after a result
        self._finished: set[str] = set()  # trials with a result of their last run
        self._failures: set[tuple[str, str]] = set()
        end = 0
        for offset, event in read_events(self.path):
            end = offset
            self._note(event)
        self._stream = self.path.open("ab")
        if self.path.stat().st_size > end:  # a line that a killed process left unfinished
            self._stream.truncate(end)

    def _key(self, event: Event) -> tuple[str, str, int | str, int]:
        """Equal for two events of which one is enough."""
        which: int | str = 0
        if isinstance(event, EpochEvent):
            which = event.step
        elif isinstance(event, ProbeEvent):
            which = event.result.measurement.key()
        elif isinstance(event, LimitEvent):
            which = event.time_ms
        elif isinstance(event, ResultEvent):
            which = digest_of(event.record)
        return event.event, event.trial, which, self._runs.get(event.trial, 0)

    def _note(self, event: Event) -> None:
        if isinstance(event, StartEvent) and event.again:
            self._runs[event.trial] = self._runs.get(event.trial, 0) + 1
            self._finished.discard(event.trial)
        elif isinstance(event, ResultEvent):
            self._finished.add(event.trial)
        self._seen.add(self._key(event))
        if isinstance(event, WITHOUT_RESULT):
            self._failures.add((event.trial, event.error))

    def has_started(self, trial: str) -> bool:
        """Whether the trial's start is in the journal."""
        return ("start", trial, 0, self._runs.get(trial, 0)) in self._seen

    def has_failure(self, trial: str, error: str) -> bool:
        """Whether the trial's failure, or early stop, with this error is in the journal."""
        return (trial, error) in self._failures

    def has_result(self, trial: str, record: TrialResult) -> bool:
        """Whether the journal has this result, of the trial's last run."""
        return ("result", trial, digest_of(record), self._runs.get(trial, 0)) in self._seen

    def extend(self, events: Iterable[Event]) -> None:
        """Append what the store says of one trial, as far as it is not in the journal.

        Another result than the recorded one is that of another run of the trial. Raises: OSError.
        """
        events = list(events)
        ends = [event for event in events if isinstance(event, ResultEvent)]
        again = any(e.trial in self._finished and self._key(e) not in self._seen for e in ends)
        for event in events:
            if isinstance(event, WITHOUT_RESULT) and self.has_failure(event.trial, event.error):
                continue
            if again and isinstance(event, StartEvent):
                event = event.model_copy(update={"again": True})  # noqa: PLW2901
            self.append(event)

    def append(self, event: Event) -> None:
        """Write and fsync. `failed`, `stopped` and a start `again` may repeat, others may not.

        Raises: OSError.

        What a full disk has refused is written before the next event.
        """
        with self._lock:
            repeats = isinstance(event, WITHOUT_RESULT)
            repeats |= isinstance(event, StartEvent) and event.again
            if not repeats and self._key(event) in self._seen:
                return
            self._note(event)
            # The result of a trial holds aliased names (scikit-learn), hence by_alias.
            line = event.model_dump_json(by_alias=True).encode() + b"\n"
            with self._explained(len(line)):
                self._stream.write(line)
                self._stream.flush()
                os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Raises: OSError, where something is still to be written."""
        with self._explained():
            self._stream.close()

    @contextlib.contextmanager
    def _explained(self, needed: int | None = None) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise storage.explain_full_disk(error, self.path, needed) from None
