"""One trial, as Tune runs it in an actor of its own, which it uses again for the next trial."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

from ray import tune
from ray.tune.trainable.function_trainable import wrap_function

from shards.support import storage
from shards.support.command import one_line
from shards.support.lease import LeaseError
from shards.support.memory import keep_freed_memory, release_memory
from sweep.planning.placement import Placement
from sweep.running import channel, leaving
from sweep.running.gang import RayLauncher
from sweep.running.shared_store import check_seen
from sweep.running.suspended import start_guard
from sweep.running.waiting import RETRIES
from trainers.canonical import make_config
from trainers.engines.launch import UNANSWERED, RankError
from trainers.engines.watchdog import STUCK
from trainers.results.lease import Behalf
from trainers.results.trial_journal import error_line
from trainers.runner import run_trial
from trainers.training.ending import StoppedError
from trainers.training.preemption import PreemptedError


def actor_class(resources: Callable[[dict[str, Any]], tune.PlacementGroupFactory]) -> type:
    """The class of which Tune makes actors. resources: from a Tune config to what a trial takes."""

    class TrialActor(wrap_function(tune.with_resources(trainable, resources))):
        def setup(self, config: dict[str, Any]) -> None:
            leaving.listen(config["sweep"])  # Ray calls this in the main thread
            limit = channel.document(config["sweep"], config["trial"])["suspended"]
            if limit is not None:
                start_guard(limit)
            # A trial that is stopped early has to release its lease before the next one begins.
            os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
            super().setup(config)

    return TrialActor


def trainable(space: dict[str, Any]) -> None:
    """One trial. `space` holds its identity, the sweep's name, and its placement.

    What it reports last is its outcome:

    - `finished`: the result is in the store.
    - `failed`: an exception of the trial itself. It would occur again, so it is not tried again.
    - `died`: a rank died or stopped responding, or the store of a cluster did not answer. The next
      attempt goes on from the newest checkpoint.
    - `preempted`: the trial saved its state, because its machine is taken away.
    - `stopped`: it saved its state, because `sweep.stop` requested it.
    - `elsewhere`: another sweep runs it, or has taken it over.

    One that is stopped early reports no outcome: Tune ends this thread where it reports an epoch.
    A gang of which a rank died after an epoch goes on here, which it reports as `death`: ranks that
    are forked again begin within seconds, and nodes on which it trained are hardly the reason.
    """
    keep_freed_memory()
    job = channel.document(space["sweep"], space["trial"])
    config = make_config(job["config"])
    how: dict[str, Any] = dict(job["how"])
    how["behalf"] = Behalf(job["token"], tuple(job["gone"]))
    how["stop"] = leaving.requested
    gang = RayLauncher(Placement.of(space), space["sweep"]) if config.ranks > 1 else None
    if gang is not None:
        how["launcher"] = gang
    deaths, trained = space["deaths"], False

    def report(values: dict[str, Any]) -> None:
        nonlocal trained
        trained = trained or "epoch" in values
        tune.report(dict(values))

    def attempt() -> bool:
        """Run the trial; False where it died and is to be tried again here."""
        nonlocal deaths, trained
        trained = False
        if leaving.requested():
            raise PreemptedError("was to leave before it began")
        check_seen(job["store"], job["bank"])
        try:
            run_trial(config, job["bank"], job["store"], report, **how)
        except RankError as error:
            again = trained and deaths < RETRIES and _may_work_again(error, job["store"])
            if not (again and gang is not None and gang.may_try_again()):
                raise
            deaths += 1
            tune.report({"death": error_line(error)})
            return False
        return True

    try:
        with leaving.trial_running():
            while not attempt():
                pass
        tune.report({"outcome": "finished"})
    except StoppedError as error:
        tune.report({"outcome": "stopped", "error": one_line(str(error))})
    except LeaseError as error:
        tune.report({"outcome": "elsewhere", "error": one_line(str(error))})
    except PreemptedError as error:
        _leave("preempted", error)
    except Exception as error:
        if _may_work_again(error, job["store"]):
            _leave("died", error)
        tune.report({"outcome": "failed", "error": error_line(error)})
    finally:
        release_memory()  # the process is used for the next trial, which may need less


def _leave(outcome: str, error: Exception) -> NoReturn:
    """Report the outcome and raise, so that Tune ends this actor: its node may be the reason."""
    text = error_line(error)
    tune.report({"outcome": outcome, "error": text})
    raise RuntimeError(text) from None  # Ray cannot pickle a RankError


def _may_work_again(error: Exception, store: str) -> bool:
    """Whether the same trial may end otherwise when it is run once more."""
    if isinstance(error, RankError):
        return error.code < 0 or error.code in (STUCK, UNANSWERED) or error.is_about_connection
    return storage.may_answer_later(store, error)
