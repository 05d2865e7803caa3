"""The options of `python -m sweep.run`, and its help on grids."""

from __future__ import annotations

import argparse
import textwrap

from shards.support.command import above, at_least, make_parser
from sweep.grids import summaries

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
  # search: draws values from ranges, early_stopping: ends bad trials; see docs/search.md
  parts:                        # several sets of combinations; each adds to, or replaces, the above
    - axes: {objective: [cosine, infonce]}
    - fixed: {objective: none}

plugins: [mine] adds objectives, arms and more from a mine.py of your own beside it.
docs/configuration.md lists every field. --dry-run checks a grid without running it.
"""


def parse_arguments(argv: list[str], doc: str | None = None) -> argparse.Namespace:
    """The options of the command, described by `doc`. Bad ones, and `--help`, raise SystemExit."""
    parser = make_parser("sweep.run", doc, _grids_help())
    _add_what_to_run(parser.add_argument_group("what to run"))
    _add_where_results_go(parser.add_argument_group("where results go"))
    _add_what_it_may_use(parser.add_argument_group("what it may use"))
    _add_what_it_costs(parser.add_argument_group("what it costs (see docs/scale.md)"))
    return parser.parse_args(argv)


def _add_what_to_run(what: argparse._ArgumentGroup) -> None:
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
        help="list trials, banks, downloads, disk space, hours, cost and time, and run nothing",
    )


def _add_where_results_go(where: argparse._ArgumentGroup) -> None:
    where.add_argument(
        "--out",
        metavar="DIR-OR-URL",
        help="folder of journal and report (default: runs/NAME of the grid); a URL such as "
        "s3://BUCKET/NAME is the --store, and the folder is runs/NAME then",
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
        "--register",
        default="",
        metavar="NAME",
        help="make every finished student a version of model NAME in MLflow's registry",
    )
    where.add_argument(
        "--json", action="store_true", help="print the table, or the dry run, as JSON"
    )


def _add_what_it_may_use(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--address",
        metavar="ADDRESS",
        help="of a running Ray cluster, e.g. auto (default: start Ray on this machine)",
    )
    how.add_argument(
        "--allow-open-ray",
        action="store_true",
        help="use a Ray that asks for no token, where whoever reaches it can run code (default: "
        "refuse it, unless its address is a loopback one)",
    )
    how.add_argument(
        "--cpus", type=at_least(1), metavar="N", help="CPU cores of this machine (default: all)"
    )
    how.add_argument(
        "--gpus-per-trial",
        type=at_least(0.0),
        metavar="F",
        help="GPUs of each rank of a trial, e.g. 0.5 to run two trials on one GPU "
        "(default: 1 where there are GPUs)",
    )
    how.add_argument(
        "--max-concurrent",
        type=at_least(1),
        metavar="N",
        help="run at most so many trials at a time (default: as many as there is room for)",
    )
    how.add_argument(
        "--time-limit",
        type=above(0.0),
        metavar="MINUTES",
        help="end the training of a trial after so long; it fails, with its state saved, and is "
        "not retried in the same run (default: no limit)",
    )
    how.add_argument(
        "--save-seconds",
        type=at_least(0.0),
        metavar="S",
        help="seconds between two checkpoints of a trial (default: as often as costs 0.5 %% of the "
        "time, see docs/reliability.md)",
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


def _add_what_it_costs(costs: argparse._ArgumentGroup) -> None:
    costs.add_argument(
        "--gpus",
        type=at_least(1),
        metavar="N",
        help="with --dry-run: plan for so many GPUs (--cpus N: for so many CPU cores)",
    )
    costs.add_argument(
        "--budget",
        metavar="AMOUNT",
        help="e.g. 50USD: start no more trials when those that run and one more would cost more, "
        "earlier runs with --budget or --deadline included; running ones end (default: no limit)",
    )
    costs.add_argument(
        "--deadline",
        metavar="TIME",
        help="start no more trials that would end later; a duration (6h, 1h30m) or an ISO time "
        "(default: none)",
    )
    costs.add_argument(
        "--prices",
        metavar="FILE",
        help="YAML table of prices (default: prices.yaml of the package, to be copied and changed)",
    )
    costs.add_argument(
        "--calibration",
        metavar="FILE",
        help="how fast the machines are, recorded on one of them by --calibrate (default: this "
        "machine's, which --dry-run measures where it is not known yet)",
    )
    costs.add_argument(
        "--calibrate",
        action="store_true",
        help="with --dry-run: measure this machine again, and write --calibration if given",
    )


def _grids_help() -> str:
    lines = ["grids that come with the project:"]
    for name, summary in summaries().items():
        first, *rest = textwrap.wrap(summary, 68)
        lines += [f"  {name:<10}{first}", *(" " * 12 + line for line in rest)]
    return "\n".join([*lines, "", GRID_FILE])
