"""Bring MLflow up to date with a sweep, from its folder or from its store alone.

    python -m sweep.sync runs/full                                     # what MLflow lacks
    python -m sweep.sync runs/full --tracking-uri http://HOST:5000     # fill another server
    python -m sweep.sync s3://bucket/sweep --out runs/full             # the folder was lost

Trials' own journals and results in the store are read first; what the sweep's journal lacks of them
is added to it. Then MLflow gets what it lacks. A second call changes nothing. A sweep that is
running uploads by itself: while one works on the store, or in the folder, this command is refused.

Exit status: 0; 1 where MLflow lacks something, with a line that names it; 2 for bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shards.support import storage
from shards.support.command import command, make_parser
from sweep.environment import set_defaults

if TYPE_CHECKING:
    from sweep.journal.run_record import StoredSweep


def sync(
    run: str,
    tracking_uri: str | None = None,
    out: str | None = None,
    sweep: str | None = None,
    register: str = "",
) -> tuple[str, list[str]]:
    """Bring MLflow up to date with a sweep; see above.

    run: its folder, or the folder or URL of its store. tracking_uri: of MLflow (default: mlflow.db
    in the folder). out: the folder, where `run` is a store. sweep: which one, by id or name, where
    the store has several. register: name of a registered model whose versions the students become.
    Returns: (address of the table of runs, a line for each thing that MLflow still lacks).
    Raises: ValueError for bad input, and while a sweep works on the store; OSError.
    """
    set_defaults()
    from shards.support.lock import exclusive
    from shards.support.progress import Progress
    from sweep.journal.events import NAME
    from sweep.journal.mlflow_page import experiment_address
    from sweep.journal.mlflow_uri import check_tracking_uri, default_uri
    from sweep.journal.rebuild import rebuild
    from sweep.journal.registry import check_name
    from sweep.journal.run_record import find_sweep, keep_record, read_record
    from sweep.journal.tracking import Tracker
    from sweep.journal.uploader import PATIENCE
    from sweep.running.holding import check_idle

    if register:
        check_name(register)
    if tracking_uri:
        check_tracking_uri(tracking_uri)
    local = storage.local_path(run) if storage.is_local(run) else None
    store, stored = "", None
    if local is None or not (local / NAME).is_file() or read_record(local) is not None:
        store, stored = find_sweep(run, sweep)
    # Without a record: a folder of an earlier version, whose journal is all there is.
    name = stored.name if stored else Path(run).resolve().name
    folder = (storage.local_only("--out", out) if out else None) or local or Path("runs") / name
    uri = tracking_uri or default_uri(folder)
    with exclusive(str(folder), "sweep"):
        if stored:
            check_idle(store)
            keep_record(folder, store, stored)
            with Progress("journal", len(stored.identities)) as bar:
                for line in rebuild(folder, store, stored, bar.update):
                    print(f"warning: skipped: {line}", file=sys.stderr)
        tracker = Tracker(folder, name, uri, register)
        with Progress("upload", 1.0) as bar:
            tracker.start()
            tracker.finish(PATIENCE, _status(folder, stored), lambda: bar.update(tracker.share()))
        return experiment_address(uri, tracker.experiment), tracker.warnings()


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.sync", __doc__)
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, or the folder or URL of its store"
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="of MLflow (default: mlflow.db in the run's folder)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the run's folder, where RUN is a store (default: RUN itself on a disk, else "
        "runs/NAME of the sweep)",
    )
    parser.add_argument(
        "--sweep", metavar="ID|NAME", help="which sweep, where the store has several"
    )
    parser.add_argument(
        "--register",
        default="",
        metavar="NAME",
        help="make every finished student a version of model NAME in MLflow's registry",
    )
    options = parser.parse_args(argv)
    address, lacking = sync(
        options.run, options.tracking_uri, options.out, options.sweep, options.register
    )
    for line in lacking:
        print(f"warning: {line}", file=sys.stderr)
    print(address)
    return 1 if lacking else 0


def _status(folder: Path, sweep: StoredSweep | None) -> str:
    """What the sweep's own run in MLflow ends as."""
    from sweep.journal.records import read_run

    run = read_run(folder)
    if run.failures:
        return "FAILED"
    planned = sweep.trials.keys() if sweep else run.starts.keys()
    return "FINISHED" if planned <= {result.id for result in run.results} else "KILLED"


if __name__ == "__main__":
    main()
