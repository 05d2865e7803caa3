"""Write a run's report: one self-contained HTML file with its tables and figures.

    python -m sweep.report runs/demo                        # writes runs/demo/report.html
    python -m sweep.report runs/demo --out /tmp/demo.html   # writes it elsewhere
    python -m sweep.report runs/demo --json                 # prints the table as JSON, writes none
    python -m sweep.report runs/demo --csv trials.csv --parquet trials.parquet --latex table.tex

It states what was compared and held fixed, shows every group's numbers with their spread over
seeds, and declares no winner. Groups meet in one figure only if they differ in student and arm
alone: never with a different objective, input resolution, number of epochs or N.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console

from shards.support.command import command, make_parser
from shards.support.progress import Progress
from sweep.reporting.page import read_results, write_report
from sweep.reporting.summary import as_plain, table


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.report", __doc__)
    parser.add_argument("run", metavar="RUN", help="the folder of a run, with its journal.jsonl")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: RUN/report.html)")
    parser.add_argument("--json", action="store_true", help="print the numbers, write nothing")
    files = parser.add_argument_group("tables as files, in place of the report")
    for kind, what in (
        ("csv", "every trial, one a line"),
        ("latex", "the table of the terminal, for booktabs"),
        ("parquet", "every trial, one a row"),
    ):
        files.add_argument(f"--{kind}", metavar="FILE", help=f"{what}; see docs/results.md")
    options = parser.parse_args(argv)
    targets = {kind: getattr(options, kind) for kind in ("csv", "latex", "parquet")}
    if any(targets.values()):
        _export(options.run, targets)
        return 0
    run = read_results(options.run)
    if options.json:
        print(json.dumps(as_plain(run.results), indent=1))
        return 0
    with Progress("report", 1) as bar:
        path = write_report(options.run, options.out, lambda i, n: bar.update(i / n))
    Console().print(table(run.results), soft_wrap=True)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    print(path)
    return 0


def _export(run: str, targets: dict[str, str | None]) -> None:
    from sweep.analysis.frame import load  # imports torch, which --help should not wait for
    from sweep.reporting.exports import export

    study = load(run)
    for kind, target in targets.items():
        if target:
            export(study, kind, target)
            print(target)
    for note in study.notes:
        print(f"note: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
