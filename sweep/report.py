"""Write the report of one or several runs: one self-contained HTML file with tables and figures.

    python -m sweep.report runs/demo                        # writes runs/demo/report.html
    python -m sweep.report runs/demo --out /tmp/demo.html   # writes it elsewhere
    python -m sweep.report runs/clip runs/dino              # two teachers side by side
    python -m sweep.report s3://BUCKET/distilsweep --out report.html    # of all that is in a store
    python -m sweep.report runs/mine --by objective         # colours stand for the objective
    python -m sweep.report runs/demo --figures figures --format pdf   # also writes figures/*.pdf
    python -m sweep.report runs/demo --json                 # prints the table as JSON, writes none
    python -m sweep.report runs/demo --csv trials.csv --parquet trials.parquet --latex table.tex
    python -m sweep.report runs/demo --check                # status 0 if all claims are supported

The first screen has the question, a verdict for each declared claim (see docs/statistics.md), and
one figure. Trials share a group if they differ in their seed alone, and a panel only if their
numbers may be compared: same data, teacher weights, numbers of images and input resolution. Runs of
other recipes or other versions of a probe stand apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.progress import Progress
from sweep.reporting.drawing import FORMATS

if TYPE_CHECKING:
    from sweep.analysis.frame import Study
    from sweep.analysis.judged import Judged


def report(
    *runs: str | Path, out: str | Path | None = None, by: str | None = None, claims: str = ""
) -> str:
    """Write the report of one or several runs; returns where.

    out: path or URL of the file (default: report.html in the first run). by: the field that colours
    stand for. claims: a file with claims to judge in place of those declared for the runs.
    Raises: ValueError where there is no run, `by` does not vary or the claims are wrong; OSError.
    """
    from sweep.analysis.judged import judge_all
    from sweep.reporting.page import place_of_report, read_study, write_report

    places = [str(run) for run in runs]
    if places:  # without any, reading them says so
        out = place_of_report(places[0], out)
    study = read_study(places)
    return write_report(places, study, judge_all(places, claims, study), out, by)


def verdicts(*runs: str | Path, claims: str = "") -> list[dict[str, Any]]:
    """The verdicts on the claims of one or several runs, as `--json` prints them: one a claim.

    claims: a file with claims to judge in place of those declared for the runs.
    Raises: ValueError where there is no run or the claims are wrong; OSError.
    """
    from sweep.analysis.judged import as_rows, judge_all

    return as_rows(judge_all([str(run) for run in runs], claims))


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.report", __doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="the folder of a run, with its journal.jsonl"
    )
    parser.add_argument(
        "--out",
        metavar="FILE-OR-URL",
        help="where to write (default: RUN/report.html; needed for a store)",
    )
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help="the field that colours stand for (default: arm, or the first that varies)",
    )
    parser.add_argument("--figures", metavar="DIR", help="write each figure as a file into DIR too")
    parser.add_argument(
        "--format", choices=FORMATS, default="svg", help="of those files (default: svg)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers, write nothing")
    files = parser.add_argument_group("tables as files, in place of the report")
    for kind, what in (
        ("csv", "every trial, one a line"),
        ("latex", "the table of the terminal, for booktabs"),
        ("parquet", "every trial, one a row"),
    ):
        files.add_argument(f"--{kind}", metavar="FILE", help=f"{what}; see docs/results.md")
    parser.add_argument(
        "--check",
        action="store_true",
        help="print the verdicts alone; status 1, with their names, if claims are not supported, "
        "or are post hoc or exploratory, or trials are missing",
    )
    parser.add_argument(
        "--claims",
        metavar="FILE",
        default="",
        help="judge the claims of this file in place of those declared for the run; they are post "
        "hoc, and pass no check, unless it is the declared file to the letter",
    )
    options = parser.parse_args(argv)
    targets = {kind: getattr(options, kind) for kind in ("csv", "latex", "parquet")}
    if any(targets.values()):
        _export(options.runs, targets)
        return 0
    if options.check:
        return _check(options.runs, options.claims)

    from sweep.analysis.judged import as_rows, judge_all
    from sweep.analysis.terminal import show_verdicts
    from sweep.reporting.page import (  # imports torch, which --help should not wait for
        place_of_report,
        read_study,
    )
    from sweep.reporting.summary import as_plain, table

    if not options.json:  # before everything is read, which takes long from a bucket
        options.out = place_of_report(options.runs[0], options.out)
    study = read_study(options.runs)
    judged = judge_all(options.runs, options.claims, study)
    if options.json:
        print(json.dumps([*as_plain(study), *as_rows(judged)], indent=1))
        return 0
    _write(options, study, judged)
    Console().print(table(study), soft_wrap=True)
    show_verdicts(judged, Console())
    for note in study.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _write(options: argparse.Namespace, study: Study, judged: list[Judged]) -> None:
    """The report and, where requested, its figures as files."""
    from sweep.reporting.figures import save_figures
    from sweep.reporting.page import material_of, write_report

    with Progress("report", 1) as bar:
        path = write_report(
            options.runs,
            study,
            judged,
            options.out,
            options.by,
            lambda done, total: bar.update(done / total),
        )
    if options.figures:
        folder = storage.local_only("--figures", options.figures)
        verdicts = [verdict for family in judged for verdict in family.verdicts]
        material = material_of(study, options.by, verdicts)
        files = save_figures(material, folder, options.format)
        print(f"{len(files)} figures: {options.figures}", file=sys.stderr)
    print(path)


def _export(runs: list[str], targets: dict[str, str | None]) -> None:
    from sweep.analysis.frame import load  # imports torch, which --help should not wait for
    from sweep.reporting.exports import export

    study = load(*runs)
    for kind, target in targets.items():
        if target:
            export(study, kind, target)
            print(target)
    for note in study.notes:
        print(f"note: {note}", file=sys.stderr)


def _check(runs: list[str], claims: str) -> int:
    """Print the verdicts; the exit status. Raises: ValueError where there is nothing to check."""
    from sweep.analysis.judged import judge_all
    from sweep.analysis.terminal import show_verdicts

    judged = judge_all(runs, claims)
    if not judged:
        raise ValueError(
            f"{', '.join(runs)}: no claims were declared for this run; put NAME.claims.yaml beside "
            "its grid before `sweep.run`, or name a file with --claims"
        )
    show_verdicts(judged, Console())
    missed = [name for family in judged for name in family.open_claims]
    for name in missed:
        print(f"not supported: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    main()
