"""Where the last run of a trial begins in the journal, and which trials it leaves in the middle."""

from __future__ import annotations

from pathlib import Path

from sweep.journal.events import (
    WITHOUT_RESULT,
    EpochEvent,
    Event,
    ResultEvent,
    StartEvent,
    read_events,
)

ROWS = (StartEvent, EpochEvent)  # what a trial reports while it goes on


def open_trials(journal: Path) -> dict[str, int]:
    """{trial: time of its newest row} of those that the journal leaves in the middle.

    Times are milliseconds since 1970. A row behind an end may have been lacking, and was added from
    the store: only a later one shows that the trial was taken up again.
    """
    found: dict[str, int] = {}
    ends: dict[str, Event] = {}
    for _, event in read_events(journal):
        trial, time_ms = event.trial, event.time_ms
        if isinstance(event, (ResultEvent, *WITHOUT_RESULT)):
            ends[trial] = event
            found.pop(trial, None)
        elif isinstance(event, ROWS):
            end = ends.get(trial)
            if end is None or (isinstance(end, WITHOUT_RESULT) and time_ms > end.time_ms):
                found[trial] = max(time_ms, found.get(trial, 0))
    return found


def of_last_run(events: list[Event]) -> list[Event]:
    """The events of one trial without those before the start of its last run."""
    starts = [number for number, event in enumerate(events) if is_again(event)]
    return events[starts[-1] :] if starts else events


def is_again(event: Event) -> bool:
    """Whether the trial was run again from there, after it had a result."""
    return isinstance(event, StartEvent) and event.again
