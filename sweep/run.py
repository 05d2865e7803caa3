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
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from shards import storage
from shards.build import request_arguments
from shards.command import command
from shards.progress import Progress
from sweep.banks import BankJob, plan_banks
from sweep.grid import expand, load_grid, override
from sweep.journal import Journal
from sweep.plan import check_room, describe, downloads, show, trial_weight
from sweep.tracking import Tracker, default_uri, quiet
from trainers.config import TrialConfig
from trainers.trial import finished


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m sweep.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--grid", required=True, metavar="NAME|FILE", help="demo, paper, full, ...")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--out", metavar="DIR", help="run folder (default runs/NAME)")
    parser.add_argument("--store", metavar="DIR-OR-URL", help="shards and trials (default: --out)")
    parser.add_argument("--dry-run", action="store_true", help="resolve and estimate, run nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run, or the final table")
    parser.add_argument("--address", help="of a running Ray, e.g. auto (default: start one here)")
    parser.add_argument("--cpus", type=int, metavar="N", help="of this machine to use")
    parser.add_argument("--gpus-per-trial", type=float, metavar="F")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="trials at a time")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow (default: OUT/mlflow.db)")
    return parser.parse_args(argv)


def build_banks(jobs: list[BankJob], options: argparse.Namespace) -> None:
    """Each bank in a process of its own, which gives its memory back; or on the cluster."""
    for job in jobs:
        if options.address:
            from sweep.schedule import build_on_cluster

            print(f"building {job.location} on the cluster", file=sys.stderr)
            build_on_cluster(job.request, job.location, options.gpus_per_trial or 0)
            continue
        arguments = request_arguments(job.request, job.location)
        ran = subprocess.run(
            [sys.executable, "-m", "shards.build", *arguments], stdout=subprocess.DEVNULL
        )
        if ran.returncode:
            raise ValueError(f"the shards in {job.location} were not built (see above)")


class Watch:
    """Hears of every trial: writes the journal, moves the bar."""

    def __init__(self, journal: Journal, trials: list[TrialConfig], store: str, bar: Progress):
        self.journal, self.store, self.bar = journal, store, bar
        self.trials = {config.identity: config for config in trials}
        self.weights = {config.identity: trial_weight(config) for config in trials}
        self.epochs: dict[str, int] = {}
        self.ended: set[str] = set()
        self.failed: dict[str, str] = {}

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        config = self.trials[trial]
        fields = {"config": config.model_dump(mode="json")}
        if kind == "start":
            self.journal.append("start", trial, **fields)
        elif kind == "epoch":
            self.journal.append("start", trial, **fields)
            self.epochs[trial] = max(self.epochs.get(trial, 0), values["epoch"])
            loss = {"loss": values["loss"], "epoch": values["epoch"]}
            at = {"step": values["step"], "time_ms": values["time_ms"]}
            self.journal.append("epoch", trial, values=loss, **at)
        elif kind == "finished":
            self.adopt(config)
        elif kind == "failed":
            self.failed[trial] = values["error"]
            self.ended.add(trial)
            self.journal.append("failed", trial, **fields, **values)
        self._move()

    def adopt(self, config: TrialConfig) -> bool:
        """Take a finished trial's result from the store into the journal."""
        record = finished(self.store, config)
        if record is None:
            return False
        trial = config.identity
        self.ended.add(trial)
        self.failed.pop(trial, None)
        self.journal.append("start", trial, config=record["config"])
        for row in record["curve"]:
            values = {"loss": row["loss"], "epoch": row["epoch"]}
            at = {"step": row["step"], "time_ms": row["time_ms"]}
            self.journal.append("epoch", trial, values=values, **at)
        self.journal.append("result", trial, record=record)
        return True

    def _move(self) -> None:
        done = 0.0
        for trial, weight in self.weights.items():
            share = self.epochs.get(trial, 0) / max(1, self.trials[trial].epochs)
            done += weight * (1.0 if trial in self.ended else 0.9 * share)
        note = f"{len(self.ended)}/{len(self.trials)} trials"
        self.bar.update(done, note + (f", {len(self.failed)} failed" if self.failed else ""))


def run_trials(
    trials: list[TrialConfig], options: argparse.Namespace, folder: Path, store: str
) -> dict[str, str]:
    """Run what is not finished yet; {trial: error} of those that failed."""
    journal = Journal(folder)
    uri = options.tracking_uri or default_uri(folder)
    tracker = Tracker(folder, folder.name, uri)
    total = sum(trial_weight(config) for config in trials)
    try:
        with Progress("trials", total) as bar:
            watch = Watch(journal, trials, store, bar)
            left = [config for config in trials if not watch.adopt(config)]
            bar.resume_at(sum(w for t, w in watch.weights.items() if t in watch.ended))
            tracker.start()
            if left:
                _schedule(left, options, folder, store, watch)
    finally:
        journal.close()
    if not tracker.finish():
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
    from sweep.schedule import Job, Resources, connected, run_jobs

    places, banks = plan_banks(left, store)
    resources = Resources(
        options.address, options.cpus, options.gpus_per_trial, options.max_concurrent
    )
    if not options.address:
        build_banks(banks, options)
    with connected(resources):
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
        plan = describe(trials, store)
        print(json.dumps(plan, indent=1)) if options.json else show(plan, Console())
        return 0
    with storage.exclusive(str(folder), "sweep"):
        for line in downloads(trials):
            print(f"to download: {line}", file=sys.stderr)
        check_room(trials, store)
        failed = run_trials(trials, options, folder, store)
    return _finish(folder, options, failed)


def _finish(folder: Path, options: argparse.Namespace, failed: dict[str, str]) -> int:
    """The table, the report, where to look; 1 when a trial failed."""
    from sweep.report import write_report
    from sweep.summary import as_plain, read_run, table

    records = read_run(folder).records
    if records:
        report = write_report(folder)
        print(json.dumps(as_plain(records))) if options.json else Console().print(table(records))
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
