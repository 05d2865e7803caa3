"""What a trial reports while it runs, in its own folder: TRIAL/journal/, JSON lines.

    {"event": "start",    "trial": ID, "time_ms": T, "config": {...}}     at every attempt
    {"event": "resumed",  "trial": ID, "time_ms": T, "step": S}   once it can train: from S on, or 0
    {"event": "epoch",    "trial": ID, "time_ms": T, "step": S, "values": {"loss": ..., "epoch": E}}
                                            and "observed": {NAME: value} where that was measured
    {"event": "failed",   "trial": ID, "time_ms": T, "config": {...}, "error": "one line"}
    {"event": "stopped",  "trial": ID, "time_ms": T, "config": {...}, "error": "why, in one line"}
    {"event": "finished", "trial": ID, "time_ms": T, "bank": LOCATION, "commit": C}

`finished` is written before result.json, which alone says that the trial is finished.

It lies beside the result, so that whatever else is lost, these rows are not. The process of the
trial's first rank writes it, and reports a row to others only once the row is stored.

The folder holds parts, 000001-3f9c2ab1.jsonl and so on. On a local disk an attempt appends to one
part and fsyncs each row; an object store has no append, so there rows are gathered for up to
PUT_SECONDS and put as a new part. No part is written by two processes. A row that a resumed trial
reports again is not written again: the first one stands, with its time, on every reading.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from shards.support import storage
from shards.support.command import one_line
from shards.support.commit import commit_of_code
from shards.support.retry import briefly
from trainers.config.schema import TrialConfig

FOLDER = "journal"
PUT_SECONDS = 5.0
RETRY_SECONDS = 30.0  # after rows could not be put, until they are tried again
Row = dict[str, Any]


def read_rows(folder: str) -> list[Row]:
    """The rows of a trial's journal in the order they were written; of equal rows the first.

    folder: the trial's. A line that was cut off, at the end of a part, is left out: its process was
    killed while it wrote. Raises: ValueError by file for any other line; OSError.
    """
    rows: list[Row] = []
    known: set[tuple[str, Any]] = set()
    for name in storage.names(storage.join(folder, FOLDER)):
        if name.endswith(".jsonl") and not name.startswith("."):
            for row in _rows_of(storage.join(folder, FOLDER, name)):
                key = _key(row)
                if key is None or key not in known:
                    rows.append(row)
                if key is not None:
                    known.add(key)
    return rows


def _key(row: Row) -> tuple[str, Any] | None:
    """Equal for two rows of which the first is enough; None for rows that may repeat."""
    if row["event"] == "epoch":
        return "epoch", row["step"]
    return ("finished", 0) if row["event"] == "finished" else None


def _rows_of(part: str) -> Iterable[Row]:
    for number, line in enumerate(storage.read(part).split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            if row["event"] in ("epoch", "resumed"):
                _ = row["step"] + 0
            _ = row["time_ms"] + 0
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{part}:{number}: not a row of a trial's journal; delete it"
            ) from None
        yield row


class TrialJournal:
    """Appends rows to the journal of one trial. For one process; see the module.

    folder: the trial's. report: called with {step, epoch, loss, time_ms} of each epoch once its row
    is stored. check: called before anything is stored; raises where this process may not write any
    more.
    """

    def __init__(
        self,
        folder: str,
        config: TrialConfig,
        report: Callable[[Row], None] = lambda values: None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = storage.join(folder, FOLDER)
        self._config, self._report, self._check, self._clock = config, report, check, clock
        self._local = storage.is_local(folder)
        rows = read_rows(folder)
        epochs = [row for row in rows if row["event"] == "epoch"]
        self._times: dict[int, int] = {row["step"]: row["time_ms"] for row in epochs}
        self._is_finished = any(row["event"] == "finished" for row in rows)
        self._last: Row | None = rows[-1] if rows else None
        names = storage.names(self.folder)
        self._number = max((int(n[:6]) for n in names if n[:6].isdigit()), default=0)
        self._part: int | None = None  # file descriptor of the part that is appended to
        self._waiting: list[bytes] = []  # rows that are not stored yet
        self._unreported: list[Row] = []
        self._stored_at = float("-inf")
        self._warned = False

    # ---- rows ----

    def start(self) -> None:
        """Note that an attempt begins."""
        self._append("start", config=self._config.model_dump(mode="json"))
        self.flush()

    def resumed(self, step: int) -> None:
        """Note the step from which the attempt trains: that of its checkpoint, 0 without one.

        Journals of earlier versions have no such row. Between it and the rows of the attempts
        before lies what is trained a second time.
        """
        self._append("resumed", step=step)
        self._store_soon()

    def restored(self, epochs: list[Row]) -> None:
        """Store and report the epochs of a checkpoint that the journal lacks.

        A trial that leaves at the end of an epoch has saved that epoch and not reported it, and
        rows that waited for an object store are lost with their process.
        """
        for values in epochs:
            if values["step"] not in self._times:
                self.epoch(values)

    def epoch(self, values: Row) -> None:
        """Store a row of the training log, then report it; one stored before is only reported."""
        step = values["step"]
        if step not in self._times:
            self._times[step] = values["time_ms"]
            named = {"loss": values["loss"], "epoch": values["epoch"]}
            observed = {"observed": values["observed"]} if "observed" in values else {}
            self._append("epoch", time_ms=values["time_ms"], step=step, values=named, **observed)
        self._unreported.append(values | {"time_ms": self._times[step]})
        self._store_soon()

    def stamped(self, epochs: list[Row]) -> list[Row]:
        """Rows of the training log with the times at which they were first stored."""
        return [row | {"time_ms": self._times.get(row["step"], row["time_ms"])} for row in epochs]

    def failed(self, error: str, event: str = "failed") -> None:
        """Note that the attempt ended without a result, and why, in one line.

        event: `failed`, or `stopped` for a trial that was stopped early.
        Nothing is added where the last row says so already.
        """
        if self._last and self._last["event"] == event and self._last["error"] == error:
            return
        self._append(event, config=self._config.model_dump(mode="json"), error=error)
        self.flush()

    def finished(self, bank: str) -> None:
        """Note that the result is about to be stored, and from which bank it was computed.

        It is stored by the next `flush`.
        """
        if not self._is_finished:
            self._is_finished = True
            self._append("finished", bank=bank, commit=commit_of_code())

    def _append(self, event: str, **fields: Any) -> None:
        row = {"event": event, "trial": self._config.identity, "time_ms": int(self._clock() * 1000)}
        self._last = row | fields
        self._waiting.append(json.dumps(self._last).encode() + b"\n")

    # ---- parts ----

    def _store_soon(self) -> None:
        """Store what waits: at once on a disk, on an object store where the last put is old."""
        if self._local:
            self.flush()
        elif time.monotonic() - self._stored_at >= PUT_SECONDS:
            self._try_to_flush()

    def flush(self) -> None:
        """Store what waits, then report it. Raises: OSError; what waits is kept."""
        if self._waiting:
            self._check()
            data = b"".join(self._waiting)
            if self._local:
                self._append_to_part(data)
            else:
                storage.write(self._next_part(), data)
            self._waiting.clear()
            self._stored_at = time.monotonic()
        reports, self._unreported = self._unreported, []
        for values in reports:
            self._report(values)

    def _try_to_flush(self) -> None:
        """As `flush`, but a store that does not take it is tried again with the next row.

        An outage is not waited out: the training goes on meanwhile.
        """
        try:
            with briefly():
                self.flush()
        except OSError as error:
            # A server that accepts requests and stays silent holds every attempt up.
            self._stored_at = time.monotonic() + RETRY_SECONDS - PUT_SECONDS
            if not self._warned:
                print(f"warning: {error}; rows are kept and stored later", file=sys.stderr)
            self._warned = True

    def _next_part(self) -> str:
        self._number += 1
        return storage.join(self.folder, f"{self._number:06d}-{secrets.token_hex(4)}.jsonl")

    def _append_to_part(self, data: bytes) -> None:
        if self._part is None:
            path = storage.local_path(self._next_part())
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            storage.sync_folder(path.parent)
        try:
            written = os.write(self._part, data)
            if written < len(data):
                raise OSError(f"{self.folder}: only {written} of {len(data)} bytes were written")
            os.fsync(self._part)
        except OSError as error:
            # What was written of the line stays the end of this part, where readers leave it out.
            self.close()
            raise storage.explain_full_disk(
                error, storage.local_path(self.folder), len(data)
            ) from None

    def leave(self) -> None:
        """Store what waits, as far as that is possible, and close; nothing is reported any more."""
        self._unreported.clear()
        self._try_to_flush()
        self.close()

    def close(self) -> None:
        """Close the part. Rows that wait are not stored: `flush` before."""
        if self._part is not None:
            os.close(self._part)
            self._part = None


def note_failure(folder: str, config: TrialConfig, error: str, event: str = "failed") -> None:
    """Add a `failed` (or `stopped`) row to a trial's journal, unless its last row says so already.

    folder: the trial's. Called where an attempt has ended: by its own process, and by whoever
    started that process, since a process that was killed notes nothing.
    Raises: OSError; ValueError for a damaged journal.
    """
    journal = TrialJournal(folder, config)
    try:
        journal.failed(error, event)
    finally:
        journal.close()


def error_line(error: BaseException) -> str:
    """`ValueError: its text`, in one line of at most 1,000 characters."""
    text = one_line(str(error)) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:1000]
