"""Ask a running sweep, or one of its trials, to save its state and end.

    python -m sweep.stop runs/demo                      # the sweep: no further trial starts
    python -m sweep.stop s3://bucket/sweep
    python -m sweep.stop runs/demo 0123456789abcdef     # one trial; the others go on

The request is written into the store, so it can be made from any machine that reaches it. It is
seen within seconds. A trial in training saves its state; one that is being measured is measured to
its end first. The command of the sweep then ends with status 0, and the same command continues.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.lease import request_stop
from sweep.journal.run_record import read_record
from sweep.running.holding import FOLDER

TRIALS, LEASE = "trials", "lease"  # as in trainers.results, which needs torch


def stop(run: str, trial: str | None = None) -> str:
    """Ask a sweep, or one of its trials, to save its state and end; returns a line about it.

    run: the `out` or the `store` of the sweep. trial: its identity, or how it begins.
    Raises: ValueError where nothing runs that could be stopped; OSError.
    """
    record = read_record(Path(run)) if storage.is_local(run) else None
    store = record.store_of(Path(run)) if record else run
    what = f"a sweep on {store}"
    place = storage.join(store, FOLDER)
    if trial is not None:
        trial = _one(storage.names(storage.join(store, TRIALS)), trial, store)
        place, what = storage.join(store, TRIALS, trial, LEASE), f"trial {trial}"
    claim = request_stop(place)
    if claim is None:
        raise ValueError(f"{what}: none is running; nothing to stop")
    return f"asked {claim.process} to stop {what}"


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.stop", __doc__)
    parser.add_argument("run", metavar="RUN", help="the --out or the --store of the sweep")
    parser.add_argument(
        "trial", metavar="TRIAL", nargs="?", help="identity of a trial, or how it begins"
    )
    options = parser.parse_args(argv)
    print(stop(options.run, options.trial), file=sys.stderr)
    return 0


def _one(trials: list[str], start: str, store: str) -> str:
    """The trial whose identity begins with `start`. Raises: ValueError for none or several."""
    if not start:
        raise ValueError(f"{store}: trial ``: an empty name; give an identity, or how it begins")
    found = [trial for trial in trials if trial.startswith(start)]
    if len(found) != 1:
        which = f"{len(found)} trials begin so" if found else "no trial was begun that begins so"
        raise ValueError(f"{store}: trial `{start}`: {which}; give its whole identity")
    return found[0]


if __name__ == "__main__":
    main()
