"""What Tune's trials report, passed on to the driver's journal and progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from ray import tune

from sweep.planning.placement import Placement
from sweep.running.deaths import local_logs, why
from sweep.running.waiting import WaitingTrials

OnEvent = Callable[[str, str, dict[str, Any]], None]  # (trial identity, kind, values)
REPORTED = ("step", "epoch", "loss", "time_ms")


class Events:
    """Calls `on_event(trial, kind, values)` in a thread of its own, in order.

    `on_event` reads results from the store and writes the journal, which may take seconds. Tune
    waits for none of that.

    An error of `on_event` stops no trial, since results are in the store as well. `close` raises
    the first one, after all events were passed on.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._events: SimpleQueue[tuple[str, str, dict[str, Any]] | None] = SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._pass_on, name="events", daemon=True)
        self._thread.start()

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        self._events.put((trial, kind, values))

    def _pass_on(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._on_event(*event)
            except Exception as error:
                self._error = self._error or error

    def close(self) -> None:
        """Wait until all events were passed on. Raises: what `on_event` raised."""
        self._events.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error


class TuneCallback(tune.Callback):
    """Tune's events: `emit` gets those of trials, `waiting` those that change what runs next.

    stopped: {trial: why} of those that the scheduler stopped early; it decides before this is
    called.
    """

    def __init__(
        self, emit: OnEvent, waiting: WaitingTrials, stopped: Mapping[str, str] | None = None
    ) -> None:
        self._emit, self._waiting = emit, waiting
        self._stopped = {} if stopped is None else stopped  # it is filled later
        self._ends: dict[str, dict[str, Any]] = {}  # outcomes of attempts that then raise an error

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; this one is of no use in another process

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._waiting.started(trial.trial_id)
        self._emit(trial.config["trial"], "start", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        identity, outcome = trial.config["trial"], result.get("outcome")
        if outcome in ("failed", "stopped", "elsewhere"):
            self._emit(identity, outcome, {"error": result["error"]})
        elif outcome == "finished":
            self._emit(identity, "finished", {})
        elif outcome:
            self._ends[trial.trial_id] = result
        elif "death" in result:
            self._waiting.died_in_place(identity, result["death"])
            self._emit(identity, "start", {})
        elif "epoch" in result:
            self._waiting.trained(identity)
            values = {name: result[name] for name in REPORTED}
            self._emit(identity, "epoch", values | {"observed": result.get("observed") or {}})
            if identity in self._stopped:
                self._emit(identity, "stopped_early", {"error": self._stopped[identity]})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        identity, placement = trial.config["trial"], Placement.of(trial.config)
        end = self._ends.pop(trial.trial_id, {})
        if end.get("outcome") == "preempted":
            self._waiting.left(identity, placement)
            self._emit(identity, "waits", {})
            return
        reason = end.get("error") or why(str(trial.get_error() or ""), local_logs())
        failure = self._waiting.died(identity, placement, reason)
        if failure is None:
            self._emit(identity, "waits", {})
        else:
            self._emit(identity, "failed", {"error": failure})
