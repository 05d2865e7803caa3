"""Run a sweep: build its banks, train and measure its trials, write a table and a report.

    python -m sweep.run --grid demo                     # 40 trials in minutes; downloads nothing
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
import contextlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shards.support import storage
from shards.support.command import as_program, command, without_password
from shards.support.memory import collecting_later
from shards.support.registry import closest
from sweep.environment import set_defaults
from sweep.options import parse_arguments

if TYPE_CHECKING:
    from sweep.analysis.frame import Study
    from sweep.planning.grid import Grid
    from sweep.running.sweep import Outcome

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
        _show_plan(grid, store, options)
        return 0
    with holding(store, argv, options.join) as hold:
        try:
            with _begun_at_once(grid, folder, store, options):
                with collecting_later():
                    from sweep.execute import execute

                outcome = execute(grid, folder, store, hold, options, owns_process)
        except KeyboardInterrupt:
            if not hold.stop_requested():
                raise
            print(STOPPED, file=sys.stderr)
            return 0
    _print_outcome(outcome)
    return 1 if outcome.failed else 0


@contextlib.contextmanager
def _begun_at_once(
    grid: Grid, folder: Path, store: str, options: argparse.Namespace
) -> Iterator[None]:
    """Inside, what takes seconds to start has begun to, where a sweep on this machine needs it.

    That is a Ray, whose workers import what trials need, and where there is no bank a process that
    imports what building one needs. Nothing begins where all trials that have begun have ended, for
    then there may be nothing to run, nor where a precision may have to be measured.
    """
    from sweep.planning.grid import is_auto, most_trials, values_of

    local = not options.address and storage.is_local(store)
    begun = list(Path(store, "trials").glob("*")) if local else []
    ended = begun and all((trial / "result.json").exists() for trial in begun)
    if not local or ended or is_auto(grid):
        yield
        return
    from sweep.running.build_process import ready_to_build
    from sweep.running.connection import started_at_once
    from trainers.config.schema import PLUGINS

    plugins = sorted(grid.fixed.get(PLUGINS, []))
    cpus = options.cpus or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        if not any(Path(store, "banks").glob("*")):
            stack.enter_context(ready_to_build(values_of(grid, "teacher")))
        stack.enter_context(started_at_once(cpus, folder, plugins, most_trials(grid)))
        yield


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


def _show_plan(grid: Grid, store: str, options: argparse.Namespace) -> None:
    """Print what the sweep would do. Raises: ValueError; OSError."""
    from rich.console import Console

    from sweep.analysis.declared import checked_claims, show_notes
    from sweep.planning.costs import calibration_for
    from sweep.planning.dry_run import show
    from sweep.planning.expand import notes_on_exclude
    from sweep.planning.grid import is_auto
    from sweep.planning.kinds import kinds_of
    from sweep.planning.plan import plan_sweep
    from sweep.planning.precision import choose, with_precision
    from sweep.planning.prices import read_prices
    from sweep.planning.resources import Resources
    from sweep.planning.select import notes_on_first, trials_of

    chosen = None
    if is_auto(grid):
        file = None if options.calibrate else options.calibration  # it is written below
        chosen = choose(grid, store, file)
        grid = with_precision(grid, chosen.precision)
    trials = trials_of(grid, options.only)
    claims = checked_claims(options.grid, trials.all)
    prices = read_prices(options.prices)
    kinds = kinds_of(trials.chosen)
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
        trials.chosen,
        store,
        known,
        prices,
        Resources.of(options, trials.resources),
        teacher_robustness=options.teacher_robustness,
        devices=devices,
        here=_runs_here(options),
        kinds=kinds,
    )
    show_notes(claims)  # after all checks: an error is one line
    for note in (*notes_on_exclude(grid), *notes_on_first(grid, trials.all)):
        print(f"note:    {note}", file=sys.stderr)
    if chosen:
        print(f"precision: {chosen}", file=sys.stderr)
    if options.json:
        print(json.dumps(plan.as_plain(), indent=1))
    else:
        show(plan, Console())


def _runs_here(options: argparse.Namespace) -> bool:
    """Whether a dry run's plan is of this machine, or of the cluster that it is given."""
    recorded = options.calibration and not options.calibrate
    more = options.cpus and options.cpus > (os.cpu_count() or 1)
    return bool(options.address) or not (recorded or options.gpus or more)


def _print_outcome(outcome: Outcome) -> None:
    """A line for each trial without a result, and why trials are left."""
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


class _Command(ModuleType):
    """The type of this module: `sweep.run` is the module of the command, and can be called."""

    def __call__(self, *arguments: Any, **options: Any) -> Study:
        """As `run`."""
        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Command

if __name__ == "__main__":
    as_program(main)
