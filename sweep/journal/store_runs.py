"""A run read from its store alone: results, and probes that were run again, of every trial.

The driver's journal may be on a machine that is gone; the store has what the trials themselves
wrote.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.support import storage
from sweep.journal.events import Event, ProbeEvent, ResultEvent
from sweep.journal.records import Run, run_of
from trainers.results.folder import RESULT, TRIALS, read_result
from trainers.results.reprobed import read_reprobed


def is_store(location: str) -> bool:
    """Whether a path or URL holds trials."""
    return bool(storage.names(storage.join(location, TRIALS)))


def read_store(store: str) -> Run:
    """Results of STORE/trials/*/result.json; a note counts the trials that have none.

    Raises: ValueError for a damaged result; OSError.
    """
    folders = storage.names(storage.join(store, TRIALS))
    skipped: list[str] = []
    run = run_of(event for name in folders for event in _events(store, name, skipped))
    missing = len(folders) - len(run.results)
    if missing:
        run.notes.append(f"{store}: {missing} of {len(folders)} trials have no result.json yet")
    run.notes.extend(f"skipped: {line}" for line in skipped)
    return run


def _events(store: str, trial: str, skipped: list[str]) -> Iterator[Event]:
    folder = storage.join(store, TRIALS, trial)
    file = storage.join(folder, RESULT)
    if not storage.exists(file):
        return
    result = read_result(file)
    ended_ms = result.epochs[-1].time_ms if result.epochs else 0
    yield ResultEvent(trial=result.id, record=result, time_ms=ended_ms)
    reprobed, lines = read_reprobed(folder, result)
    skipped += lines
    for again in reprobed:
        yield ProbeEvent(trial=result.id, step=result.last_step, result=again, time_ms=ended_ms)
