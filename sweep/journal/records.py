"""A run's journal, read back: the result of every trial, with the probes that were run again.

A journal may hold values of one probe in several versions. They never meet in one result, nor in
one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweep.journal.attempts import Attempts
from sweep.journal.events import (
    NAME,
    EpochEvent,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
    StoppedEvent,
    read_events,
)
from sweep.journal.run_record import read_record
from sweep.journal.stored import stored_result
from trainers.results.record import TrialResult, merge
from trainers.results.reprobed import Reprobed


@dataclass(frozen=True)
class Run:
    """Results of one sweep, and how each trial ended that has no later result.

    results: without arrays unless requested, see `with_arrays`. notes: what was left out
    of the results, so that every metric is of one version of its probe, or could not be read.
    starts: the first start of each trial, in its last run. ended_ms: when each trial's last end
    was recorded. seconds: of all attempts of each finished trial, see `Attempts`. stopped: trials
    that were stopped early.
    """

    results: list[TrialResult]
    failures: list[FailedEvent] = field(default_factory=lambda: [])
    notes: list[str] = field(default_factory=lambda: [])
    starts: dict[str, StartEvent] = field(default_factory=lambda: {})
    ended_ms: dict[str, int] = field(default_factory=lambda: {})
    seconds: dict[str, float] = field(default_factory=lambda: {})
    stopped: list[StoppedEvent] = field(default_factory=lambda: [])


def read_run(run_dir: str | Path, arrays: bool = False) -> Run:
    """Results and failures of RUN/journal.jsonl, in the order of their last event.

    arrays: whether to read the arrays of every result as well, from the run's store; a note names
    what could not be read.
    The last result of a trial wins; a failure counts unless a result of that trial follows it.
    Probes that were run again join their trial's result. Raises: ValueError for a missing file,
    and by file and line for a line that is not an event.
    """
    path = Path(run_dir) / NAME
    if not path.is_file():
        what = f"no {NAME} in it" if Path(run_dir).is_dir() else "no such folder"
        raise ValueError(f"{run_dir}: {what}; expected a run folder written by `sweep.run`")
    run = run_of(event for _, event in read_events(path))
    if not arrays:
        return run
    results, missing = _all_with_arrays(store_of(run_dir), run.results)
    return replace(run, results=results, notes=run.notes + missing)


def run_of(events: Iterable[Event]) -> Run:
    """What events in the order of a journal say together, see `read_run`."""
    results: dict[str, TrialResult] = {}
    ends: dict[str, FailedEvent | StoppedEvent] = {}
    reprobed: dict[str, list[Reprobed]] = {}
    starts: dict[str, StartEvent] = {}
    times = _Times()
    for event in events:
        times.add(event)
        if isinstance(event, StartEvent):
            if event.again or event.trial not in starts:
                starts[event.trial] = event
        elif isinstance(event, ResultEvent):
            ends.pop(event.trial, None)
            before = results.pop(event.trial, None)  # so that it takes the last place
            if before not in (None, event.record):
                reprobed.pop(event.trial, None)  # they are of a student that is no more
            results[event.trial] = event.record
        elif isinstance(event, FailedEvent | StoppedEvent):
            ends[event.trial] = event
        elif isinstance(event, ProbeEvent):
            reprobed.setdefault(event.trial, []).append(event.result)
    for trial, measurements in reprobed.items():
        for again in measurements if trial in results else []:
            results[trial] = merge(results[trial], again.probe, again.values)
    kept, notes = newest_only(list(results.values()))
    failed = [end for end in ends.values() if isinstance(end, FailedEvent)]
    stopped = [end for end in ends.values() if isinstance(end, StoppedEvent)]
    return Run(kept, failed, notes, starts, times.ended_ms, times.seconds, stopped)


class _Times:
    """When trials ended, and how long the attempts of the finished ones took, see `Run`."""

    def __init__(self) -> None:
        self.ended_ms: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._attempts: dict[str, Attempts] = {}

    def add(self, event: Event) -> None:
        if not isinstance(
            event, StartEvent | EpochEvent | ResultEvent | FailedEvent | StoppedEvent
        ):
            return
        if isinstance(event, StartEvent) and event.again:
            self._attempts.pop(event.trial, None)
        attempts = self._attempts.setdefault(event.trial, Attempts())
        attempts.add(event.event, event.time_ms)
        if isinstance(event, ResultEvent | FailedEvent | StoppedEvent):
            self.ended_ms[event.trial] = event.time_ms
        if isinstance(event, ResultEvent):
            # Of earlier versions it is not known where an attempt of a sweep was interrupted.
            whole = attempts.seconds if event.seconds is None else event.seconds
            if whole is not None:
                self.seconds[event.trial] = whole


def _all_with_arrays(store: str, results: list[TrialResult]) -> tuple[list[TrialResult], list[str]]:
    """The results with their arrays, and a note about those whose arrays could not be read."""
    found: list[TrialResult] = []
    errors: list[str] = []
    for result in results:
        try:
            found.append(with_arrays(store, result))
        except (OSError, ValueError) as error:
            errors.append(str(error))
            found.append(result)
    if not errors:
        return found, []
    return found, [f"arrays of {len(errors)} trials could not be read from the store: {errors[-1]}"]


def store_of(run_dir: str | Path) -> str:
    """Path or URL of the run's store: by its run.json, else the folder itself."""
    record = read_record(Path(run_dir))
    return record.store_of(Path(run_dir)) if record else str(run_dir)


def with_arrays(store: str, result: TrialResult) -> TrialResult:
    """A result of the journal with the arrays of its probes, read from the store.

    Raises: FileNotFoundError; ValueError; OSError.
    """
    if result.arrays:  # a journal of an earlier version
        return result
    stored = stored_result(store, result.id).probes
    probes = dict(result.probes)
    for name, entry in result.probes.items():
        if name in stored and stored[name].version == entry.version:
            probes[name] = entry.model_copy(update={"arrays": stored[name].arrays})
    return result.replace(probes)


def newest_only(results: list[TrialResult]) -> tuple[list[TrialResult], list[str]]:
    """Each probe's entries in the newest version that any trial has; a note for those left out.

    Values of different versions were computed by different arithmetic, so a mean or a comparison
    over both would say nothing.
    """
    newest: dict[str, int] = {}
    for result in results:
        for probe, version in result.versions().items():
            newest[probe] = max(version, newest.get(probe, version))
    left_out = dict.fromkeys(newest, 0)
    kept: list[TrialResult] = []
    for result in results:
        current = {n: e for n, e in result.probes.items() if e.version == newest[n]}
        for probe in result.probes.keys() - current.keys():
            left_out[probe] += 1
        kept.append(result if len(current) == len(result.probes) else result.replace(current))
    notes = [
        f"{count} trials were measured by an older version of `{probe}` than the newest of this "
        f"run ({newest[probe]}); their values are left out: run trainers.probe on the run, then "
        "sweep.run again"
        for probe, count in left_out.items()
        if count
    ]
    return kept, notes
