"""What the store says of a trial, as events of the sweep's journal.

The driver takes finished trials into its journal through this, and a journal that was lost is made
again through this: both therefore write equal values with equal times, and a tracking server that
has the rows already takes them as the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from shards.support import storage
from sweep.journal.attempts import Attempts
from sweep.journal.events import (
    EpochEvent,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
    StoppedEvent,
    now_ms,
)
from trainers.results.folder import RESULT, TRIALS, read_result
from trainers.results.record import Epoch, TrialResult, additions, merge
from trainers.results.reprobed import read_reprobed
from trainers.results.trial_journal import Row, read_rows


def stored_events(store: str, trial: str, skipped: list[str]) -> Iterator[Event]:
    """Events of one trial: its start, its epochs, and its result, or how it ended without one.

    skipped: gets a line for each file of a probe that does not belong to the trial.
    Raises: ValueError for a damaged file; OSError.
    """
    folder = storage.join(store, TRIALS, trial)
    rows = read_rows(folder)
    file = storage.join(folder, RESULT)
    if storage.exists(file):
        result = read_result(file)
        yield from result_events(trial, result, rows)
        yield from probe_events(store, trial, result, skipped)
    else:
        yield from _unfinished_events(trial, rows)


def result_events(trial: str, result: TrialResult, rows: list[Row]) -> Iterator[Event]:
    """Start, epochs and result of a finished trial.

    rows: of its journal, none in stores of earlier versions.
    """
    times: dict[str, int] = {}
    attempts = Attempts()
    for row in rows:
        attempts.add(row["event"], row["time_ms"])
        times.setdefault(row["event"], row["time_ms"])
    nothing: Row = {}
    last = next((row for row in rows if row["event"] == "finished"), nothing)
    epochs = result.epochs
    end = times.get("finished", epochs[-1].time_ms if epochs else now_ms())
    begin = times.get("start", epochs[0].time_ms if epochs else end)
    yield StartEvent(trial=trial, config=result.config, time_ms=begin)
    observed = {row.step: row.values for row in result.observations.rows}
    for row in epochs:
        yield epoch_event(trial, row, observed.get(row.step, {}))
    yield ResultEvent(
        trial=trial,
        time_ms=end,
        record=result.without_arrays(),
        seconds=attempts.seconds,
        result=f"{TRIALS}/{trial}/{RESULT}",
        bank=last.get("bank", ""),
        commit=last.get("commit", ""),
    )


def epoch_event(trial: str, row: Epoch, observed: Mapping[str, float]) -> EpochEvent:
    """The event of a row of the training log. observed: what was measured at its step."""
    return EpochEvent(
        trial=trial,
        step=row.step,
        values={"loss": row.loss, "epoch": row.epoch},
        observed={name: value for name, value in observed.items() if math.isfinite(value)},
        time_ms=row.time_ms,
    )


def probe_events(
    store: str, trial: str, result: TrialResult, skipped: list[str]
) -> Iterator[Event]:
    """Probes that were run again since; `skipped` gets a line for each file that does not belong.

    Raises: ValueError; OSError.
    """
    folder = storage.join(store, TRIALS, trial)
    reprobed, left_out = read_reprobed(folder, result)
    skipped += left_out
    rows = read_rows(folder) if reprobed else []
    end = next((row["time_ms"] for row in rows if row["event"] == "finished"), None)
    for again in reprobed:
        # Only what is new: a value that is in MLflow already would become a second row there.
        new = additions(result, again.probe, again.values)
        if not new.is_empty():
            event = again.model_copy(update={"values": new.without_arrays()})
            # MLflow shows the value with the latest step and time. So they are later than those of
            # the result and of older versions, and the same on every reading. Trials of earlier
            # versions have no time of their end, and their results are at their last step.
            step, time_ms = (result.last_step, now_ms()) if end is None else (0, end)
            time_ms += again.values.version
            yield ProbeEvent(trial=trial, step=step, result=event, time_ms=time_ms)


def _unfinished_events(trial: str, rows: list[Row]) -> Iterator[Event]:
    end: Row | None = None
    started = False
    for row in rows:
        kind, time_ms = row["event"], row["time_ms"]
        if kind == "start":
            end = None  # it is being tried again
            if not started:
                yield StartEvent(trial=trial, config=row["config"], time_ms=time_ms)
            started = True
        elif kind == "epoch":
            epoch = Epoch(step=row["step"], time_ms=time_ms, **row["values"])
            yield epoch_event(trial, epoch, row.get("observed", {}))
        elif kind in ("failed", "stopped"):
            end = row
    if end is not None:
        ended = StoppedEvent if end["event"] == "stopped" else FailedEvent
        config, error = end["config"], end["error"]
        yield ended(trial=trial, config=config, error=error, time_ms=end["time_ms"])


def stored_result(store: str, trial: str) -> TrialResult:
    """The whole result of a finished trial, with the probes that were run again.

    Raises: FileNotFoundError; ValueError; OSError.
    """
    folder = storage.join(store, TRIALS, trial)
    result = read_result(storage.join(folder, RESULT))
    for again in read_reprobed(folder, result)[0]:
        result = merge(result, again.probe, again.values)
    return result
