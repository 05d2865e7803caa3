"""Run the trials of a grid: everything is checked and recorded first, and shown at the end."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.building.ray_start import check_address
from shards.building.ray_token import check_token
from shards.support import storage
from shards.support.lock import exclusive
from shards.support.memory import collecting_later
from sweep.analysis.declared import checked_claims, record_claims, show_notes
from sweep.journal.mlflow_page import compare_lines
from sweep.journal.mlflow_uri import tracking_uri
from sweep.journal.registry import check_name
from sweep.journal.run_record import open_record
from sweep.journal.uploader import Uploader
from sweep.planning.banks import plan_banks
from sweep.planning.costs import calibration_for, expected
from sweep.planning.expand import notes_on_exclude
from sweep.planning.grid import Grid, is_auto
from sweep.planning.kinds import kinds_of
from sweep.planning.limits import Limits, read_budget, read_deadline
from sweep.planning.plan import downloads
from sweep.planning.precision import Chosen, choose, with_precision
from sweep.planning.precision import record as record_precision
from sweep.planning.prices import read_prices
from sweep.planning.recorded_grids import record_grid
from sweep.planning.resources import Resources, check_fits
from sweep.planning.room import check_room
from sweep.planning.select import notes_on_first, priorities, trials_of
from sweep.running.holding import Hold
from sweep.running.restart import began_at
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun

if TYPE_CHECKING:
    from sweep.running.sweep import Outcome, Sweep


def execute(
    grid: Grid,
    folder: Path,
    store: str,
    hold: Hold,
    options: argparse.Namespace,
    owns_process: bool,
) -> Outcome:
    """Run the trials, then show table and report. owns_process: see Sweep.

    Raises: ValueError, of one line, for what cannot run, be recorded or be kept to; OSError.
    """
    uri = tracking_uri(folder, options.tracking_uri)
    if options.register:
        check_name(options.register)
    grid, precision = _with_precision(grid, store, options)
    if options.address:
        check_address(options.address)
    check_token(options.address, options.allow_open_ray)
    trials = trials_of(grid, options.only)
    resources = Resources.of(options, trials.resources)
    limited = _limits(trials.chosen, store, resources, options)
    claims = checked_claims(options.grid, trials.all)
    with exclusive(str(folder), "sweep"):
        record = open_record(folder, store, grid.name)
        with Uploader(folder, record.name, uri, options.register) as uploader:
            with collecting_later():
                from sweep.running.sweep import Sweep

            sweep = Sweep(
                folder=folder,
                store=store,
                resources=resources,
                record=record,
                hold=hold,
                retry_failed=options.retry_failed,
                teacher_robustness=options.teacher_robustness,
                early_stopping=grid.early_stopping,
                first=priorities(trials.chosen, grid.first),
                owns_process=owns_process,
                **limited,
            )
            _check_room(grid, trials.chosen, store, resources, options)
            show_notes(claims)  # after the checks: an error is one line
            for note in (*notes_on_exclude(grid), *notes_on_first(grid, trials.all)):
                print(f"note:    {note}", file=sys.stderr)
            if precision:
                print(f"precision: {precision}", file=sys.stderr)
            # After the checks: a folder that has recorded a grid refuses any other one, although
            # nothing has run in it.
            record_grid(folder, grid, trials.all)
            if precision:
                record_precision(store, grid.name, precision)
            if claims:
                record_claims(folder, grid.name, claims[0], trials.all, store, record.id)
            chosen, outcome = _run_trials(sweep, grid, trials.chosen, options)
            _show_and_upload(folder, grid, chosen, outcome, uploader, options.json)
    for line in compare_lines(uri, uploader.experiment):
        print(f"compare: {line}", file=sys.stderr)
    return outcome


def _with_precision(
    grid: Grid, store: str, options: argparse.Namespace
) -> tuple[Grid, Chosen | None]:
    """The grid with a precision in place of `auto`, and how it was chosen. Raises: ValueError."""
    if not is_auto(grid):
        return grid, None
    chosen = choose(grid, store, options.calibration, here=not options.address)
    return with_precision(grid, chosen.precision), chosen


def _run_trials(
    sweep: Sweep, grid: Grid, trials: list[TrialConfig], options: argparse.Namespace
) -> tuple[list[TrialConfig], Outcome]:
    """Run the trials, and those that a search by Optuna proposes meanwhile."""
    from sweep.running.driver import run_sweep

    if grid.search is None or grid.search.by != "optuna":
        return trials, run_sweep(sweep, trials)
    from sweep.running.searching import Searching

    search = Searching(grid, grid.search)
    resources = replace(sweep.resources, needs=search.needs)
    outcome = run_sweep(replace(sweep, resources=resources), trials, search)
    found = trials_of(search.grid, options.only)
    record_grid(sweep.folder, search.grid, found.all)
    return found.chosen, outcome


def _limits(
    trials: list[TrialConfig], store: str, resources: Resources, options: argparse.Namespace
) -> dict[str, Any]:
    """Fields of Sweep about `--budget` and `--deadline`, and the plan of a given `--calibration`.

    Raises: ValueError for a limit that cannot be kept to.
    """
    if not (options.budget or options.deadline or options.calibration):
        return {}
    if options.address and not options.calibration:
        raise ValueError(
            "--budget, --deadline: on a cluster they need the --calibration FILE of its machines, "
            "recorded there by --dry-run --calibrate --calibration FILE"
        )
    prices = read_prices(options.prices)
    money = read_budget(options.budget, prices.currency) if options.budget else None
    deadline = read_deadline(options.deadline, began_at()) if options.deadline else None
    kinds = [kind for kind, _ in kinds_of(trials)]
    known = calibration_for(kinds, options.calibration, again=False)
    present = begun(store)
    left = [config for config in trials if config.identity not in present] or trials
    _, jobs = plan_banks(left, store, options.teacher_robustness)
    devices = options.gpus if known.device != "cpu" else options.cpus
    remote = not storage.is_local(store)
    found = expected(trials, jobs, known, prices, devices, resources, remote)
    limits = Limits(money, deadline) if money is not None or deadline is not None else None
    return {"limits": limits, "price": prices.hour(known.device), "expected": found}


def _check_room(
    grid: Grid,
    trials: list[TrialConfig],
    store: str,
    resources: Resources,
    options: argparse.Namespace,
) -> None:
    """Print what will be downloaded. Raises: ValueError where disk, cores or GPUs are too few."""
    for line in downloads(trials):
        print(f"to download: {line}", file=sys.stderr)
    stopping = grid.early_stopping is not None
    check_room(trials, store, resources, options.teacher_robustness, stopping)
    found = begun(store)
    check_fits([config for config in trials if config.identity not in found], resources)


def _show_and_upload(
    folder: Path,
    grid: Grid,
    trials: list[TrialConfig],
    outcome: Outcome,
    uploader: Uploader,
    as_json: bool,
) -> None:
    """Show the results, and wait for what is left of the upload."""
    # Only now: pandas and what draws figures is not needed before.
    from sweep.results import show_best, show_results

    report = show_results(folder, as_json)
    show_best(folder, grid.search, trials)
    ended = "KILLED" if outcome.left else "FINISHED"
    status = "FAILED" if outcome.failed else ended
    for line in uploader.finish(status, report, notify=_print_upload):
        print(f"warning: {line}", file=sys.stderr)


def _print_upload(line: str) -> None:
    print(f"mlflow:  {line}", file=sys.stderr)
