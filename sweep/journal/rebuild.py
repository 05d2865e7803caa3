"""A sweep's journal made again, or brought up to date, from its store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweep.journal.events import Journal
from sweep.journal.run_record import StoredSweep
from sweep.journal.stored import stored_events


def rebuild(
    folder: Path,
    store: str,
    sweep: StoredSweep,
    on_trial: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Append to the journal in `folder` what the store has and the journal lacks.

    on_trial: called with the number of trials that were read. Returns a line for each file of a
    probe that does not belong to its trial.
    Raises: ValueError for a damaged file; OSError.
    """
    skipped: list[str] = []
    journal = Journal(folder)
    try:
        for done, trial in enumerate(sweep.identities, 1):
            journal.extend(stored_events(store, trial, skipped))
            on_trial(done)
    finally:
        journal.close()
    return skipped
