"""A whole sweep: banks, trials, measurements, tracking, table, report.

    python -m sweep.run --grid demo                      # minutes, no network, nothing to fetch
    python -m sweep.run --grid full --dry-run            # what it would run, cost and download
    python -m sweep.run --grid mine.yaml --set epochs=10 --seeds 5 --out runs/mine
    python -m sweep.run --grid full --address auto --store s3://bucket/sweep --gpus-per-trial 1

The same command again resumes: banks and trials that are finished are not computed again, an
interrupted trial goes on from its newest checkpoint, a failed one is tried again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.lock import exclusive
from shards.support.progress import Progress
from sweep.journal import Journal
from sweep.journal.tracking import Tracker, default_uri, quiet
from sweep.planning.banks import BankJob, build_bank, plan_banks
from sweep.planning.costs import check_room, guess
from sweep.planning.dry_run import show
from sweep.planning.grid import expand, load_grid, override
from sweep.planning.plan import describe, downloads
from sweep.planning.sizes import trial_weight
from sweep.running.watch import Watch
from trainers.config.schema import TrialConfig


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("sweep.run", __doc__)
    parser.add_argument("--grid", required=True, metavar="NAME|FILE", help="demo, paper, full, ...")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--out", metavar="DIR", help="run folder (default runs/NAME)")
    parser.add_argument("--store", metavar="DIR-OR-URL", help="shards and trials (default: --out)")
    parser.add_argument(
        "--teacher-robustness",
        action="store_true",
        help="banks built here hold the teacher's figures under the test arms instead of its "
        "embeddings: much smaller where there are many",
    )
    parser.add_argument("--dry-run", action="store_true", help="resolve and estimate, run nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run, or the final table")
    parser.add_argument("--address", help="of a running Ray, e.g. auto (default: start one here)")
    parser.add_argument("--cpus", type=int, metavar="N", help="of this machine to use")
    parser.add_argument("--gpus-per-trial", type=float, metavar="F")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="trials at a time")
    parser.add_argument(
        "--reading",
        default="auto",
        choices=("auto", "resident", "streaming"),
        help="keep shards in memory or read them as needed; results are the same",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow (default: OUT/mlflow.db)")
    options = parser.parse_args(argv)
    for name in ("cpus", "max_concurrent"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: {value}; at least 1")
    if options.gpus_per_trial is not None and not options.gpus_per_trial >= 0:
        raise ValueError(f"--gpus-per-trial: {options.gpus_per_trial}; 0 or more")
    return options


def build_banks(jobs: list[BankJob], options: argparse.Namespace) -> None:
    """Each bank in a process of its own, which gives its memory back; or on the cluster."""
    for job in jobs:
        if options.address:
            from shards.building.ray_workers import spread

            print(f"building {job.location} on the cluster", file=sys.stderr)
            asked = options.gpus_per_trial
            device = None if asked is None else "cuda" if asked else "cpu"
            spread(job.request, job.location, device=device)
            continue
        code = build_bank(job)
        if code > 0:
            raise SystemExit(code)  # the build has said what is wrong
        if code:
            raise ValueError(f"the build of {job.location} was ended by signal {-code}")


def run_trials(
    trials: list[TrialConfig], options: argparse.Namespace, folder: Path, store: str
) -> dict[str, str]:
    """Run what is not finished yet; {trial: error} of those that failed."""
    journal = Journal(folder)
    uri = options.tracking_uri or default_uri(folder)
    tracker = Tracker(folder, folder.resolve().name, uri)
    watch = Watch(journal, trials, store)
    try:
        left = [config for config in trials if not watch.adopt(config)]
        tracker.start()
        if left:
            _schedule(left, options, folder, store, watch)
    finally:
        journal.close()
    for config in left:
        if config.identity not in watch.ended:
            watch.failed[config.identity] = "ended without a result; the same command tries again"
    if not tracker.finish(status="FAILED" if watch.failed else "FINISHED"):
        print(
            f"warning: MLflow at {uri} has not taken everything ({tracker.error or 'too slow'}); "
            "nothing is lost, the same command uploads the rest",
            file=sys.stderr,
        )
    return watch.failed


def _schedule(
    left: list[TrialConfig], options: argparse.Namespace, folder: Path, store: str, watch: Watch
) -> None:
    """Banks first, then the trials, the heaviest first so that the last ones are short."""
    from sweep.running.schedule import Job, Resources, check_fits, connected, run_jobs

    resources = Resources(
        options.address,
        options.cpus,
        options.gpus_per_trial,
        options.max_concurrent,
        options.reading,
    )
    check_fits(left, resources)
    places, banks = plan_banks(left, store, options.teacher_robustness)
    if not options.address:
        build_banks(banks, options)
    bar = Progress("trials", watch.total())
    bar.resume_at(watch.done())
    bar.note = watch.note() + ("" if options.address else guess(left, resources.local_cpus()))
    with bar, connected(resources, folder):
        watch.bar = bar
        if options.address:
            build_banks(banks, options)
        jobs = [Job(c, places[c.identity]) for c in sorted(left, key=trial_weight, reverse=True)]
        run_jobs(jobs, store, folder, resources, watch)


@command
def main(argv: list[str]) -> int:
    quiet()
    options = parse_arguments(argv)
    grid = override(load_grid(options.grid), options.settings, options.seeds)
    trials = expand(grid)
    folder = Path(options.out or f"runs/{grid.name}")
    store = options.store or str(folder.resolve())
    storage.scheme_of(store)
    if options.dry_run:
        plan = describe(trials, store, options.teacher_robustness)
        print(json.dumps(plan, indent=1)) if options.json else show(plan, Console())
        return 0
    with exclusive(str(folder), "sweep"):
        for line in downloads(trials):
            print(f"to download: {line}", file=sys.stderr)
        check_room(trials, store, options.teacher_robustness)
        failed = run_trials(trials, options, folder, store)
    return _finish(folder, options, failed)


def _finish(folder: Path, options: argparse.Namespace, failed: dict[str, str]) -> int:
    """The table, the report, where to look; 1 when a trial failed."""
    from sweep.reporting.page import write_report
    from sweep.reporting.summary import as_plain, read_run, table

    run = read_run(folder)
    if records := run.records:
        report = write_report(folder)
        if options.json:
            print(json.dumps(as_plain(records)))
        else:
            Console().print(table(records), soft_wrap=True)
        for note in run.notes:
            print(f"note:    {note}", file=sys.stderr)
        print(f"report:  {report}", file=sys.stderr)
    uri = options.tracking_uri or default_uri(folder)
    print(f"compare: {mlflow_command(uri)}", file=sys.stderr)
    for trial, error in failed.items():
        print(f"failed:  trial {trial}: {error}", file=sys.stderr)
    return 1 if failed else 0


def mlflow_command(uri: str) -> str:
    """The one command that opens the MLflow UI of this sweep."""
    if uri.startswith("http"):
        return f"open {uri}"
    beside = Path(sys.executable).parent / "mlflow"
    program = str(beside) if beside.exists() else "mlflow"
    return f"MLFLOW_DISABLE_TELEMETRY=true {program} ui --backend-store-uri {uri}"


if __name__ == "__main__":
    main()
