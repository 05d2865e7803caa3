"""Run a sweep: build its banks, train and measure its trials, write a table and a report.

    python -m sweep.run --grid demo                     # 28 trials in minutes; downloads nothing
    python -m sweep.run --grid full --dry-run           # what it would run, take and download
    python -m sweep.run --grid mine.yaml --seeds 5 --set epochs=10 --out runs/mine
    python -m sweep.run --grid full --address auto --store s3://bucket/sweep --gpus-per-trial 1

Run the same command again to resume: finished banks and trials are kept, an interrupted trial
continues from its newest checkpoint, and a failed one is retried. A value added to the grid runs
only what is new. `python -m sweep.stop STORE` asks a running sweep to save its state and end.

Exit status:
    0    every trial has a result, or the sweep, or a trial of it, was stopped on request
    1    a trial failed
    2    bad input, or another sweep works on the store
    130  interrupted from the keyboard
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.support import storage
from shards.support.command import as_program, command, without_password
from shards.support.lock import exclusive
from shards.support.registry import closest
from sweep.environment import set_defaults
from sweep.options import parse_arguments
from trainers.config.schema import TrialConfig

if TYPE_CHECKING:
    from sweep.analysis.frame import Study
    from sweep.planning.grid import Grid
    from sweep.planning.search import Search
    from sweep.running.driver import Outcome, Sweep
    from sweep.running.holding import Hold
    from sweep.running.resources import Resources

STOPPED = "stopped on request; run the same command again to continue"


@command
def main(argv: list[str]) -> int:
    return _run_command(argv, owns_process=True)


def run(
    grid: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Study:
    """`python -m sweep.run` as a function: run what is missing, and load all of its trials.

        study = distilsweep.run("demo", settings={"epochs": 2}, seeds=1, cpus=2)

    grid: a grid's name, a YAML file, or the content of one as a mapping. settings: as `--set`.
    options: the command's other options, with `_` for `-`; `only` may be a list. Trials that failed
    are rows of the study.
    Raises: ValueError for a wrong grid or option, for `dry_run`, which has no trials to load, and
        where a bank cannot be built; OSError.
    """
    if options.get("dry_run"):
        raise ValueError(
            "dry_run: a plan has no trials to load; `python -m sweep.run --dry-run` prints it"
        )
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(grid, Mapping):
            file = Path(folder, "grid.yaml")
            file.write_text(json.dumps(grid), encoding="utf-8")
            grid = file
        argv = ["--grid", str(grid), *([] if out is None else ["--out", str(out)])]
        for name, value in (settings or {}).items():
            argv += ["--set", f"{name}={json.dumps(value)}"]
        argv += _as_arguments(options)
        try:
            _run_command(argv, owns_process=False)
        except SystemExit as ended:  # of options that cannot be parsed, and of a bank's build
            raise ValueError(
                f"sweep.run {shlex.join(argv)}: ended with status {ended.code}; see the error above"
            ) from None
        from sweep.analysis.frame import load
        from sweep.planning.grid import load_grid

        return load(out or f"runs/{load_grid(str(grid)).name}")


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Keywords of `run` as options of the command. Raises: ValueError for an unknown one."""
    defaults = vars(parse_arguments(["--grid", ""]))
    arguments: list[str] = []
    for name, value in options.items():
        if name not in defaults:
            raise ValueError(f"unknown option `{name}`; {closest(name, list(defaults))}")
        if value == defaults[name]:
            continue
        option = name.replace("_", "-")
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool):
                arguments.append(f"--{option}" if one else f"--no-{option}")
            else:
                arguments += [f"--{option}", str(one)]
    return arguments


def _run_command(argv: list[str], owns_process: bool) -> int:
    """Run the sweep, or show its plan; the command's exit status. owns_process: see Sweep."""
    options = parse_arguments(argv, __doc__)
    # What is imported here needs neither torch, Ray nor MLflow, which take seconds. A mistake in
    # the grid, or another sweep on the store, should not take that long to be reported.
    set_defaults()
    from sweep.planning.grid import check_combinations, load_grid
    from sweep.planning.recorded_grids import check_grid
    from sweep.planning.settings import override
    from sweep.running.holding import holding

    if options.join and not options.store:
        raise ValueError("--join: give the --store of the other sweep, and an --out of its own")
    grid = override(load_grid(options.grid), options.settings, options.seeds)
    check_combinations(grid)
    folder, store = _places(grid.name, options.out, options.store)
    check_grid(folder, grid, options.add)
    if options.dry_run:
        trials, chosen, _ = _trials(grid, options)
        _check_claims(trials, options)
        _show_plan(chosen, store, options)
        return 0
    with holding(store, argv, options.join) as hold:
        try:
            outcome = _sweep(grid, folder, store, hold, options, owns_process)
        except KeyboardInterrupt:
            if not hold.stop_requested():
                raise
            print(STOPPED, file=sys.stderr)
            return 0
    for trial, error in outcome.failed.items():
        print(f"failed:  trial {trial}: {error}", file=sys.stderr)
    for trial, reason in outcome.stopped_early.items():
        print(f"stopped: trial {trial}: {reason}", file=sys.stderr)
    if outcome.limit:
        print(f"limit:   {outcome.limit}; {outcome.left} trials are left", file=sys.stderr)
    elif outcome.left:
        print(f"{STOPPED}; {outcome.left} trials are left", file=sys.stderr)
    else:
        for trial, where in outcome.stopped.items():
            print(f"stopped: trial {trial}: {where}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _places(name: str, out: str | None, store: str | None) -> tuple[Path, str]:
    """The folder of journal and report on this machine, and the store's path or URL.

    Where `out` is a URL it is the store, and the folder is runs/ and the URL's last name.
    Raises: ValueError for a URL that cannot be used, or beside another store.
    """
    if out and not storage.is_local(out):
        if store:
            raise ValueError(
                f"--out {without_password(out)}: a URL beside --store; give the URL as --store, "
                "and as --out a folder of this machine"
            )
        bucket, *names = out.rstrip("/").partition("://")[2].split("/")
        if not bucket:
            raise ValueError(f"--out {out}: no bucket; expected s3://BUCKET/NAME")
        return Path("runs", [bucket, *names][-1]), out.rstrip("/")
    folder = storage.local_path(out) if out else Path("runs", name)
    store = store or str(folder)
    if storage.is_local(store):  # workers have other working directories
        store = str(storage.local_path(store).resolve())
    return folder, store


def _trials(
    grid: Grid, options: argparse.Namespace
) -> tuple[list[TrialConfig], list[TrialConfig], dict[str, dict[str, Any]]]:
    """All trials of the grid, those of them that `--only` leaves, and {trial: its resources}."""
    from sweep.planning.early_stopping import check_decidable, check_early_stopping
    from sweep.planning.expand import expand_with_resources
    from sweep.planning.select import only
    from sweep.planning.sizes import check_lengths

    found = expand_with_resources(grid)
    trials = [config for config, _ in found]
    chosen = only(trials, options.only)
    check_lengths(chosen)
    if grid.early_stopping is not None:
        check_early_stopping(grid.early_stopping, trials)
    if grid.search is not None:
        if grid.search.by == "optuna" and options.only:
            raise ValueError("--only: optuna needs every trial that it proposes; leave it out")
        for config in trials:
            check_decidable(config, "search", grid.search.measure)
    return trials, chosen, {config.identity: needs for config, needs in found if needs}


def _check_claims(trials: list[TrialConfig], options: argparse.Namespace) -> tuple[str, str] | None:
    """The grid's claims, see `claims_text`; prints a line on each that these trials cannot decide.

    Raises: ValueError for an invalid claim.
    """
    from sweep.analysis.declared import check_claims, claims_text

    claims = claims_text(options.grid)
    for note in check_claims(*claims, trials) if claims else ():
        print(f"claims:  {note}", file=sys.stderr)
    return claims


def _sweep(
    grid: Grid,
    folder: Path,
    store: str,
    hold: Hold,
    options: argparse.Namespace,
    owns_process: bool,
) -> Outcome:
    """Run the trials, then show table and report."""
    from shards.building.ray_start import check_address
    from shards.building.ray_token import check_token
    from sweep.analysis.declared import record_claims
    from sweep.journal.registry import check_name
    from sweep.journal.run_record import open_record
    from sweep.journal.uploader import Uploader
    from sweep.planning.recorded_grids import record_grid
    from sweep.planning.select import priorities

    trials, chosen, needs = _trials(grid, options)
    uri = _tracking_uri(folder, options)
    if options.register:
        check_name(options.register)
    if options.address:
        check_address(options.address)
    check_token(options.address, options.allow_open_ray)
    limited = _limits(chosen, store, options)
    claims = _check_claims(trials, options)
    with exclusive(str(folder), "sweep"):
        record = open_record(folder, store, grid.name)
        with Uploader(folder, record.name, uri, options.register) as uploader:
            # Only now: Ray is imported while the upload's process imports MLflow.
            from sweep.running.driver import Sweep, run_sweep

            sweep = Sweep(
                folder=folder,
                store=store,
                resources=_resources(needs, options),
                record=record,
                hold=hold,
                retry_failed=options.retry_failed,
                teacher_robustness=options.teacher_robustness,
                early_stopping=grid.early_stopping,
                first=priorities(chosen, grid.first),
                owns_process=owns_process,
                **limited,
            )
            _check_room(chosen, store, sweep.resources, options)
            # After the checks: a folder that has recorded a grid refuses any other one, although
            # nothing has run in it.
            record_grid(folder, grid, trials)
            if claims:
                record_claims(folder, grid.name, claims[0], trials, store, record.id)
            if grid.search is not None and grid.search.by == "optuna":
                from sweep.rounds import run_rounds

                def run_round(grid: Grid, failed: frozenset[str]) -> Outcome:
                    return _run_round(sweep, grid, failed, options)

                grid, outcome = run_rounds(grid, grid.search, folder, run_round)
                chosen = _trials(grid, options)[1]
            else:
                outcome = run_sweep(sweep, chosen)
            report = _show_results(folder, options.json)
            _show_best(folder, grid.search, chosen)
            ended = "KILLED" if outcome.left else "FINISHED"
            status = "FAILED" if outcome.failed else ended
            for line in uploader.finish(status, report, notify=_print_upload):
                print(f"warning: {line}", file=sys.stderr)
    for line in compare_lines(uri, uploader.experiment):
        print(f"compare: {line}", file=sys.stderr)
    return outcome


def _run_round(
    sweep: Sweep, grid: Grid, failed: frozenset[str], options: argparse.Namespace
) -> Outcome:
    """Run what is missing of a search so far, but for the trials that have `failed` before."""
    from sweep.planning.recorded_grids import record_grid
    from sweep.planning.select import priorities
    from sweep.running.driver import run_sweep

    trials, chosen, needs = _trials(grid, options)
    record_grid(sweep.folder, grid, trials)
    sweep = replace(
        sweep,
        resources=replace(sweep.resources, needs=needs),
        first=priorities(chosen, grid.first),
    )
    return run_sweep(sweep, [config for config in chosen if config.identity not in failed])


def _show_plan(trials: list[TrialConfig], store: str, options: argparse.Namespace) -> None:
    from rich.console import Console

    from sweep.planning.costs import calibration_for
    from sweep.planning.dry_run import show
    from sweep.planning.kinds import kinds_of
    from sweep.planning.plan import plan_sweep
    from sweep.planning.prices import read_prices

    prices = read_prices(options.prices)
    kinds = kinds_of(trials)
    known = calibration_for(
        [kind for kind, _ in kinds], options.calibration, again=options.calibrate
    )
    devices = options.cpus if known.device == "cpu" else options.gpus
    if options.gpus and known.device == "cpu":
        raise ValueError(
            f"--gpus {options.gpus}: this machine has none to calibrate; give the --calibration "
            "FILE of a machine with one, recorded there by --dry-run --calibrate --calibration FILE"
        )
    plan = plan_sweep(
        trials,
        store,
        known,
        prices,
        teacher_robustness=options.teacher_robustness,
        devices=devices,
        gpus_per_rank=options.gpus_per_trial,
        kinds=kinds,
    )
    if options.json:
        print(json.dumps(plan.as_plain(), indent=1))
    else:
        show(plan, Console())


def _limits(trials: list[TrialConfig], store: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fields of Sweep about `--budget` and `--deadline`, and the plan of a given `--calibration`.

    Raises: ValueError for a limit that cannot be kept to.
    """
    if not (options.budget or options.deadline or options.calibration):
        return {}
    import time

    from sweep.planning.banks import plan_banks
    from sweep.planning.costs import calibration_for, expected
    from sweep.planning.kinds import kinds_of
    from sweep.planning.limits import Limits, read_budget, read_deadline
    from sweep.planning.prices import read_prices
    from trainers.results.folder import begun

    if options.address and not options.calibration:
        raise ValueError(
            "--budget, --deadline: on a cluster they need the --calibration FILE of its machines, "
            "recorded there by --dry-run --calibrate --calibration FILE"
        )
    prices = read_prices(options.prices)
    money = read_budget(options.budget, prices.currency) if options.budget else None
    deadline = read_deadline(options.deadline, time.time()) if options.deadline else None
    kinds = [kind for kind, _ in kinds_of(trials)]
    known = calibration_for(kinds, options.calibration, again=False)
    present = begun(store)
    left = [config for config in trials if config.identity not in present] or trials
    _, jobs = plan_banks(left, store, options.teacher_robustness)
    devices = options.gpus if known.device != "cpu" else options.cpus
    remote = not storage.is_local(store)
    found = expected(trials, jobs, known, prices, devices, options.gpus_per_trial, remote)
    limits = Limits(money, deadline) if money is not None or deadline is not None else None
    return {"limits": limits, "price": prices.hour(known.device), "expected": found}


def _resources(needs: dict[str, dict[str, Any]], options: argparse.Namespace) -> Resources:
    from sweep.running.resources import Resources

    return Resources(
        address=options.address,
        cpus=options.cpus,
        gpus_per_trial=options.gpus_per_trial,
        concurrent=options.max_concurrent,
        reading=options.reading,
        save_seconds=options.save_seconds,
        time_limit=None if options.time_limit is None else 60 * options.time_limit,
        needs=needs,
    )


def _check_room(
    trials: list[TrialConfig], store: str, resources: Resources, options: argparse.Namespace
) -> None:
    """Print what will be downloaded. Raises: ValueError where disk, cores or GPUs are too few."""
    from sweep.planning.costs import check_room
    from sweep.planning.plan import downloads
    from sweep.running.resources import check_fits
    from trainers.results.folder import begun

    for line in downloads(trials):
        print(f"to download: {line}", file=sys.stderr)
    check_room(trials, store, options.teacher_robustness)
    found = begun(store)
    check_fits([config for config in trials if config.identity not in found], resources)


def _show_results(folder: Path, as_json: bool) -> Path | None:
    """Print the table and write the report of all results; returns its path."""
    from rich.console import Console

    from sweep.analysis.frame import load
    from sweep.analysis.judged import as_rows, judge
    from sweep.analysis.terminal import show_verdicts
    from sweep.reporting.page import write_report
    from sweep.reporting.summary import as_plain, table

    study = load(folder)
    if not study.results:
        return None
    judged = judge(folder, study)
    report = Path(write_report([folder], study, judged))
    if as_json:
        print(json.dumps([*as_plain(study), *as_rows(judged)]))
    else:
        Console().print(table(study), soft_wrap=True)
        show_verdicts(judged, Console())
    for note in study.notes:
        print(f"note:    {note}", file=sys.stderr)
    print(f"report:  {report}", file=sys.stderr)
    return report


def _show_best(folder: Path, search: Search | None, trials: list[TrialConfig]) -> None:
    """Print the best draw of a search for each combination of the axes."""
    if search is None:
        return
    from sweep.analysis.best import best_lines
    from sweep.analysis.frame import load

    for line in best_lines(load(folder), search, {config.identity for config in trials}):
        print(f"search:  {line}", file=sys.stderr)


def _print_upload(line: str) -> None:
    print(f"mlflow:  {line}", file=sys.stderr)


def _tracking_uri(folder: Path, options: argparse.Namespace) -> str:
    """MLflow's URI. Raises: ValueError for one that cannot work."""
    from sweep.journal.mlflow_uri import check_tracking_uri, default_uri

    if not options.tracking_uri:
        return default_uri(folder)
    check_tracking_uri(options.tracking_uri)
    return options.tracking_uri


def compare_lines(uri: str, experiment: str) -> list[str]:
    """How to look at the sweep in MLflow: a command where there is no server, and the address."""
    from sweep.journal.uploader import experiment_address

    address = without_password(experiment_address(uri, experiment))
    if uri.startswith("http"):
        return [address]
    return [mlflow_command(uri), f"then open {address}"]


def mlflow_command(uri: str) -> str:
    """The command that starts the MLflow UI on a database, to be pasted into a shell.

    A password is shown as `***`, because what a sweep prints ends up in logs.
    """
    beside = Path(sys.executable).parent / "mlflow"
    program = shlex.quote(str(beside) if beside.exists() else "mlflow")
    store = shlex.quote(without_password(uri))
    return f"MLFLOW_DISABLE_TELEMETRY=true {program} ui --backend-store-uri {store}"


if __name__ == "__main__":
    as_program(main)
