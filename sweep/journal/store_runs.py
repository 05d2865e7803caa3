"""A run read from its store alone: what every trial has written there itself.

The driver's journal may be on a machine that is gone.
"""

from __future__ import annotations

from shards.support import storage
from sweep.journal.records import Run, run_of
from sweep.journal.stored import stored_events
from trainers.results.folder import TRIALS


def is_store(location: str) -> bool:
    """Whether a path or URL holds trials."""
    return bool(storage.names(storage.join(location, TRIALS)))


def read_store(store: str) -> Run:
    """The trials of STORE/trials/; a note counts those that have neither result nor journal.

    Raises: ValueError for a damaged file; OSError.
    """
    names = storage.names(storage.join(store, TRIALS))
    skipped: list[str] = []
    run = run_of(event for name in names for event in stored_events(store, name, skipped))
    silent = len(
        set(names) - run.starts.keys() - {end.trial for end in [*run.failures, *run.stopped]}
    )
    if silent:
        run.notes.append(f"{store}: {silent} of {len(names)} trials have written nothing yet")
    run.notes.extend(f"skipped: {line}" for line in skipped)
    return run
