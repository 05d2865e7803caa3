"""Run a sweep: build its banks, train and measure its trials, write a table and a report.

    python -m sweep.run --grid demo                     # 18 trials in minutes; downloads nothing
    python -m sweep.run --grid full --dry-run           # what it would run, take and download
    python -m sweep.run --grid mine.yaml --seeds 5 --set epochs=10 --out runs/mine
    python -m sweep.run --grid full --address auto --store s3://bucket/sweep --gpus-per-trial 1

Run the same command again to resume: finished banks and trials are kept, an interrupted trial
continues from its newest checkpoint, and a failed one is retried. A value added to the grid runs
only what is new. `python -m sweep.stop STORE` asks a running sweep to save its state and end.

Exit status:
    0    every trial has a result, or the sweep was asked to stop
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
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.support import storage
from shards.support.command import command, make_parser, without_password
from shards.support.lock import exclusive
from sweep.environment import set_defaults
from sweep.grids import summaries
from trainers.config.schema import TrialConfig

if TYPE_CHECKING:
    from sweep.analysis.frame import Study
    from sweep.journal.run_record import RunRecord
    from sweep.planning.grid import Grid
    from sweep.running.driver import Outcome
    from sweep.running.holding import Hold

STOPPED = "stopped on request; run the same command again to continue"
GRID_FILE = """\
a grid file of your own:
  name: mine                    # of the run folder and the MLflow experiment
  fixed:                        # fields that all trials share
    dataset: folder:photos      # photos/train/CLASS/*.jpg and photos/test/CLASS/*.jpg
    teacher: open_clip:ViT-B-32:openai
    epochs: 30
  axes:                         # every combination of these values is a trial
    student: [width:1, width:2]
    arm: [clean, noise:0.1]
  seeds: 3                      # each with seeds 0, 1 and 2; or a list: [42, 123, 456]
  resources: {cpus: 2, gpus: 0.5, placement: spread}    # of each rank; changes no result
  exclude:                      # leave out combinations that match every field of an entry
    - {student: width:1, arm: noise:0.1}
  first: [{arm: clean}]         # trials that match an entry start before the others
  parts:                        # several sets of combinations; each adds to, or replaces, the above
    - axes: {objective: [cosine, infonce]}
    - fixed: {objective: none}

docs/configuration.md lists every field. --dry-run checks a grid without running it.
"""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The options of the command. Bad ones, and `--help`, end the process."""
    parser = make_parser("sweep.run", __doc__, _grids_help())

    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--grid", required=True, metavar="NAME|FILE", help="one of the grids below, or a YAML file"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="fix a field of every trial, in place of its axis if it has one; may be repeated",
    )
    what.add_argument(
        "--seeds", type=int, metavar="N", help="run every combination with seeds 0 to N-1"
    )
    what.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="run only the trials of the grid that have this value; may be repeated: of one field "
        "any of the values, of different fields all",
    )
    what.add_argument(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run trials again that failed in an earlier run of this command (default: yes); "
        "finished ones are never run again, and one that fails is not retried in the same run",
    )
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="list trials, banks, downloads, disk space and time, and run nothing",
    )

    where = parser.add_argument_group("where results go")
    where.add_argument(
        "--out", metavar="DIR", help="folder of journal and report (default: runs/NAME of the grid)"
    )
    where.add_argument(
        "--add",
        action="store_true",
        help="add this grid to a folder that holds another one; both are in one report then",
    )
    where.add_argument(
        "--store",
        metavar="DIR-OR-URL",
        help="folder or URL of banks, trial results and checkpoints (default: the --out folder); "
        "a cluster needs one that every node can reach",
    )
    where.add_argument(
        "--join",
        action="store_true",
        help="work off the same trials beside another sweep on the same --store; each has an --out "
        "of its own (default: a second sweep on a store is refused)",
    )
    where.add_argument(
        "--tracking-uri", metavar="URI", help="of MLflow (default: mlflow.db in the --out folder)"
    )
    where.add_argument(
        "--json", action="store_true", help="print the table, or the dry run, as JSON"
    )

    how = parser.add_argument_group("what it may use")
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a running Ray cluster, e.g. auto (default: start Ray on this machine)",
    )
    how.add_argument(
        "--cpus", type=_at_least(1), metavar="N", help="CPU cores of this machine (default: all)"
    )
    how.add_argument(
        "--gpus-per-trial",
        type=_at_least(0.0),
        metavar="F",
        help="GPUs of each rank of a trial, e.g. 0.5 to run two trials on one GPU "
        "(default: 1 where there are GPUs)",
    )
    how.add_argument(
        "--max-concurrent",
        type=_at_least(1),
        metavar="N",
        help="run at most so many trials at a time (default: as many as there is room for)",
    )
    how.add_argument(
        "--time-limit",
        type=_at_least(0.0),
        metavar="MINUTES",
        help="end the training of a trial after so long; it fails, with its state saved, and is "
        "not retried in the same run (default: no limit)",
    )
    how.add_argument(
        "--save-seconds",
        type=_at_least(0.0),
        metavar="S",
        help="seconds between two checkpoints of a trial (default: as often as costs 2 %% of the "
        "time)",
    )
    how.add_argument(
        "--reading",
        default="auto",
        choices=("auto", "resident", "streaming"),
        help="whether trials keep a bank in memory or read it as needed; results are the same",
    )
    how.add_argument(
        "--teacher-robustness",
        action="store_true",
        help="new banks hold the teacher's accuracy and rank under the test arms in place of its "
        "embeddings, which takes much less space where there are many test arms",
    )
    return parser.parse_args(argv)


def _grids_help() -> str:
    lines = ["grids that come with the project:"]
    for name, summary in summaries().items():
        first, *rest = textwrap.wrap(summary, 68)
        lines += [f"  {name:<10}{first}", *(" " * 12 + line for line in rest)]
    return "\n".join([*lines, "", GRID_FILE])


def _at_least(least: float) -> Callable[[str], float]:
    """An option's type: numbers of the type of `least`, and not below it."""

    def convert(text: str) -> float:
        try:
            value = type(least)(text)
        except ValueError:
            value = float("nan")
        if not value >= least:
            kind = "a whole number" if isinstance(least, int) else "a number"
            raise argparse.ArgumentTypeError(f"{text}; expected {kind}, at least {least:g}")
        return value

    return convert


@command
def main(argv: list[str]) -> int:
    return _run_command(argv)


def run(
    grid: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Study:
    """`python -m sweep.run` as a function: run what is missing, and load all of its trials.

        study = distilsweep.run("demo", settings={"epochs": 2}, seeds=1, cpus=2)

    grid: a grid's name, a YAML file, or the content of one as a mapping. settings: as `--set`.
    options: the command's other options, with `_` for `-`. Trials that failed are rows of the
    study. Raises: ValueError for a wrong grid or option; OSError.
    """
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(grid, Mapping):
            file = Path(folder, f"{grid.get('name', 'grid')}.yaml")
            file.write_text(json.dumps(grid), encoding="utf-8")
            grid = file
        argv = ["--grid", str(grid), *([] if out is None else ["--out", str(out)])]
        for name, value in (settings or {}).items():
            argv += ["--set", f"{name}={json.dumps(value)}"]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            argv += [flag] if value is True else [flag, str(value)]
        try:
            _run_command(argv)
        except SystemExit:
            raise ValueError(f"sweep.run {shlex.join(argv)}: wrong options, see above") from None
        from sweep.analysis.frame import load
        from sweep.planning.grid import load_grid

        return load(out or f"runs/{load_grid(str(grid)).name}")


def _run_command(argv: list[str]) -> int:
    """Run the sweep, or show its plan; the command's exit status."""
    options = parse_arguments(argv)
    # What is imported here needs neither torch, Ray nor MLflow, which take seconds. A mistake in
    # the grid, or another sweep on the store, should not take that long to be told.
    set_defaults()
    from sweep.planning.grid import load_grid, override
    from sweep.planning.recorded_grids import check_grid
    from sweep.running.holding import holding

    if options.join and not options.store:
        raise ValueError("--join: give the --store of the other sweep, and an --out of its own")
    grid = override(load_grid(options.grid), options.settings, options.seeds)
    folder = Path(options.out or f"runs/{grid.name}")
    store = options.store or str(folder)
    if storage.is_local(store):  # workers have other working directories
        store = str(storage.local_path(store).resolve())
    check_grid(folder, grid, options.add)
    if options.dry_run:
        trials, chosen, _ = _trials(grid, options)
        _tell_of_claims(trials, options)
        _show_plan(chosen, store, options)
        return 0
    with holding(store, argv, options.join) as hold:
        try:
            outcome = _sweep(grid, folder, store, hold, options)
        except KeyboardInterrupt:
            if not hold.stop_requested():
                raise
            print(STOPPED, file=sys.stderr)
            return 0
    for trial, error in outcome.failed.items():
        print(f"failed:  trial {trial}: {error}", file=sys.stderr)
    if outcome.left:
        print(f"{STOPPED}; {outcome.left} trials are left", file=sys.stderr)
    else:
        for trial, where in outcome.stopped.items():
            print(f"stopped: trial {trial}: {where}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _trials(
    grid: Grid, options: argparse.Namespace
) -> tuple[list[TrialConfig], list[TrialConfig], dict[str, dict[str, Any]]]:
    """All trials of the grid, those of them that `--only` leaves, and {trial: its resources}."""
    from sweep.planning.expand import expand_with_resources
    from sweep.planning.select import only
    from sweep.planning.sizes import check_lengths

    found = expand_with_resources(grid)
    trials = [config for config, _ in found]
    chosen = only(trials, options.only)
    check_lengths(chosen)
    return trials, chosen, {config.identity: needs for config, needs in found if needs}


def _tell_of_claims(trials: list[TrialConfig], options: argparse.Namespace) -> None:
    """Name claims that these trials cannot decide. Raises: ValueError for an invalid claim."""
    from sweep.analysis.declared import check_claims, claims_text

    claims = claims_text(options.grid)
    for note in check_claims(*claims, trials) if claims else ():
        print(f"claims:  {note}", file=sys.stderr)


def _sweep(
    grid: Grid, folder: Path, store: str, hold: Hold, options: argparse.Namespace
) -> Outcome:
    """Run the trials, then show table and report."""
    from shards.building.ray_start import check_address
    from sweep.analysis.declared import claims_text, record_claims
    from sweep.journal.run_record import open_record
    from sweep.journal.uploader import Uploader
    from sweep.planning.recorded_grids import record_grid
    from sweep.planning.select import priorities

    claims = claims_text(options.grid)
    trials, chosen, needs = _trials(grid, options)
    uri = _tracking_uri(folder, options)
    if options.address:
        check_address(options.address)
    _tell_of_claims(trials, options)

    def keep_grid() -> None:
        record_grid(folder, grid, trials)
        if claims:
            record_claims(folder, grid.name, claims[0], trials, store)

    with exclusive(str(folder), "sweep"):
        record, first = open_record(folder, store, grid.name), priorities(chosen, grid.first)
        with Uploader(folder, record.name, uri) as uploader:
            outcome = _run(chosen, needs, folder, store, record, hold, first, options, keep_grid)
            report = _show_results(folder, options.json)
            ended = "KILLED" if outcome.left else "FINISHED"
            status = "FAILED" if outcome.failed else ended
            for line in uploader.finish(status, report, notify=_tell):
                print(f"warning: {line}", file=sys.stderr)
    for line in compare_lines(uri, uploader.experiment):
        print(f"compare: {line}", file=sys.stderr)
    return outcome


def _show_plan(trials: list[TrialConfig], store: str, options: argparse.Namespace) -> None:
    from rich.console import Console

    from sweep.planning.dry_run import show
    from sweep.planning.plan import plan_sweep

    plan = plan_sweep(trials, store, options.teacher_robustness)
    if options.json:
        print(json.dumps(plan.as_plain(), indent=1))
    else:
        show(plan, Console())


def _run(
    trials: list[TrialConfig],
    needs: dict[str, dict[str, Any]],
    folder: Path,
    store: str,
    record: RunRecord,
    hold: Hold,
    first: dict[str, int],
    options: argparse.Namespace,
    keep_grid: Callable[[], None],
) -> Outcome:
    """Check room and resources, then run the trials.

    keep_grid: called once both were found to be enough. A folder that recorded a grid before that
    would refuse the next grid, although nothing has run in it.
    """
    from sweep.planning.costs import check_room
    from sweep.planning.plan import downloads
    from sweep.running.driver import Sweep, run_sweep
    from sweep.running.resources import Resources, check_fits
    from trainers.results.folder import begun

    for line in downloads(trials):
        print(f"to download: {line}", file=sys.stderr)
    check_room(trials, store, options.teacher_robustness)
    resources = Resources(
        address=options.address,
        cpus=options.cpus,
        gpus_per_trial=options.gpus_per_trial,
        concurrent=options.max_concurrent,
        reading=options.reading,
        save_seconds=options.save_seconds,
        time_limit=None if options.time_limit is None else 60 * options.time_limit,
        needs=needs,
    )
    own = __name__ == "__main__"
    sweep = Sweep(
        folder,
        store,
        resources,
        record,
        hold,
        options.retry_failed,
        options.teacher_robustness,
        first,
        own,
    )
    found = begun(store)
    check_fits([config for config in trials if config.identity not in found], resources)
    keep_grid()
    return run_sweep(sweep, trials)


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
    report = write_report([folder], study, judged)
    if as_json:
        print(json.dumps([*as_plain(study), *as_rows(judged)]))
    else:
        Console().print(table(study), soft_wrap=True)
        show_verdicts(judged, Console())
    for note in study.notes:
        print(f"note:    {note}", file=sys.stderr)
    print(f"report:  {report}", file=sys.stderr)
    return report


def _tell(line: str) -> None:
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
    main()
