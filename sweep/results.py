"""What a sweep shows once its trials have ended: table, verdicts, report and best draws."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from sweep.analysis.best import best_lines
from sweep.analysis.frame import load
from sweep.analysis.judged import as_rows, judge
from sweep.analysis.terminal import show_verdicts
from sweep.planning.search import Search
from sweep.reporting.page import write_report
from sweep.reporting.summary import as_plain, table
from trainers.config.schema import TrialConfig


def show_results(folder: Path, as_json: bool) -> Path | None:
    """Print the table and write the report of all results; returns its path."""
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


def show_best(folder: Path, search: Search | None, trials: list[TrialConfig]) -> None:
    """Print the best draw of a search for each combination of the axes."""
    if search is None:
        return
    for line in best_lines(load(folder), search, {config.identity for config in trials}):
        print(f"search:  {line}", file=sys.stderr)
