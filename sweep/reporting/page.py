"""The page of a report: one HTML file with figures, tables and verdicts, which loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.support import storage
from sweep.analysis.frame import Study, load
from sweep.analysis.judged import Judged
from sweep.analysis.verdicts import Verdict
from sweep.journal.mlflow_uri import is_tracking_uri
from sweep.planning.recorded_plan import PlannedStart, read_plan
from sweep.reporting import facts
from sweep.reporting.by_epoch import probed_table
from sweep.reporting.cost import cost
from sweep.reporting.designs import design_tables
from sweep.reporting.drawing import TEACHER, Figure, as_svg
from sweep.reporting.figures import figures_of, legend_of
from sweep.reporting.groups import Compared, compare, short_names
from sweep.reporting.material import Material
from sweep.reporting.published import published_table
from sweep.reporting.tables import Table, all_measures, every_trial, main_tables, unfinished
from sweep.reporting.verdict_lines import verdict_lines

NAME = "report.html"
MISSING = "some spectra and curves are missing, for results are not in the store"
TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = {
    "rank": ("Rank and capacity", ["geometry", "matched", "layout"], ["rank"]),
    "robustness": ("Accuracy and robustness", ["accuracy"], ["noise", "robustness"]),
    "spectra": ("Spectra and subspaces", [], ["variance", "subspace"]),
    "agreement": ("Agreement with the teacher", ["agreement", "less_teacher"], ["agreement"]),
    "collapse": ("Why a rank is low", [], ["collapse"]),
    "training": ("During training", ["probed"], ["curves", "loss"]),
    "frequency": ("Frequencies", [], ["frequency", "fourier"]),
}
Section = tuple[str, str, list[Figure], list[Table]]
OnFigures = Callable[[int, int], None]


def write_report(
    runs: Sequence[str | Path],
    study: Study,
    judged: Iterable[Judged],
    out: str | Path | None = None,
    by: str | None = None,
    on_figures: OnFigures = lambda done, total: None,
) -> str:
    """Write the report of one or several runs; returns where. Equal results give equal bytes.

    study, judged: what was read of the runs, and the verdicts on their claims. out: path or URL of
    the file (default: report.html in the first run). by: the field that colours stand for.
    Raises: ValueError where `by` does not vary, or for a first run without a folder and no `out`;
    OSError where the file cannot be written.
    """
    target = place_of_report(runs[0], out)
    places = dict.fromkeys(str(Path(folder).resolve()) for folder in runs)
    title = " + ".join(map(short_names(places).__getitem__, places))
    verdicts = [verdict for family in judged for verdict in family.verdicts]
    html = render(study, title, by, verdicts, _plan(runs), on_figures)
    storage.write(target, html.encode())
    return target


def place_of_report(run: str | Path, out: str | Path | None = None) -> str:
    """`out`, or the report's file in the folder of `run`.

    Raises: ValueError for a run without a folder, which is a store or an experiment, and no `out`.
    """
    folder = _folder(run)
    if not out and not folder:
        raise ValueError(f"{run}: not a folder, so the report needs a place: --out FILE")
    return str(out or f"{folder}/{NAME}")


def _plan(runs: Sequence[str | Path]) -> list[PlannedStart]:
    folders = [folder for run in runs if (folder := _folder(run))]
    return [start for folder in folders for start in read_plan(folder).starts]


def _folder(run: str | Path) -> Path | None:
    """The folder of a run; None for a store, and for an experiment of MLflow."""
    elsewhere = is_tracking_uri(str(run)) or not storage.is_local(str(run))
    return None if elsewhere else storage.local_path(str(run))


def read_study(runs: Sequence[str | Path]) -> Study:
    """The trials of these runs. Raises: as `load`, and ValueError where none has finished."""
    study = load(*runs)
    if "finished" not in set(study.trials["status"]):
        errors = [text for text in study.trials["error"] if isinstance(text, str)]
        last = f", the last with `{errors[-1]}`" if errors else ""
        where = ", ".join(map(str, runs))
        raise ValueError(
            f"{where}: 0 results and {len(errors)} failures{last}; expected a finished trial"
        )
    return study


def material_of(study: Study, by: str | None = None, verdicts: Iterable[Verdict] = ()) -> Material:
    """A study as figures and tables need it. Raises: ValueError where `by` does not vary.

    verdicts: on the run's claims, whose metrics the first figure shows.
    """

    def arrays(trial: str) -> dict[str, list[float]]:
        try:
            return study.arrays(trial)
        except KeyError:  # read from MLflow, which has none
            return {}
        except OSError as error:
            if not any(MISSING in note for note in study.notes):
                study.notes.append(f"{MISSING}: {error.filename}: {error.strerror}")
            return {}

    claimed = tuple(dict.fromkeys(verdict.claim.metric for verdict in verdicts))
    return Material(compare(study.trials, study.axes, by), arrays, study.curves, claimed)


def render(
    study: Study,
    title: str,
    by: str | None = None,
    verdicts: Sequence[Verdict] = (),
    planned: Sequence[PlannedStart] = (),
    on_figures: OnFigures = lambda done, total: None,
) -> str:
    """The whole page as text; equal studies give equal text.

    verdicts: on the run's claims. planned: the recorded starts. on_figures: called with
    (figures drawn, of how many). Raises: as `material_of`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    material = material_of(study, by, verdicts)
    compared, trials = material.compared, study.trials
    figures = figures_of(material)
    drawn: list[str] = []

    def panels(figure: Figure) -> list[tuple[str, Markup]]:
        on_figures(len(drawn), len(figures))
        drawn.append(figure.name)
        named = enumerate(figure.panels)
        return [(t, Markup(as_svg(f"{figure.name}{i}", draw))) for i, (t, draw) in named]

    pages = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"panels": panels, "legend": lambda f: _legend(f, compared)}
    pages.globals |= {"sortable": _sortable}
    designs, lost = design_tables(material, trials, study.axes)
    tables = [*main_tables(compared), *designs]
    tables += [table] if (table := probed_table(material)) else []
    sections = _sections(figures, tables)
    published = published_table(material)
    notes = [*facts.notes(compared, trials), *lost, *study.notes]
    contents = [("verdicts", "Verdicts")] if verdicts else []
    contents += [("figure-glance", "At a glance")] if "glance" in figures else []
    contents += [("reading", "Before you read on")] if notes else []
    contents += [("paper", "The paper’s Table I")] if published else []
    contents += [(id, name) for id, name, *_ in sections]
    contents += [("failures", "Failures"), ("cost", "Cost"), ("provenance", "Provenance")]
    contents += [("details", "All numbers and settings")]
    return pages.get_template("report.html.j2").render(
        title=title,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
        contents=contents,
        question=facts.question(compared),
        lead=facts.lead(compared),
        meta=facts.meta(trials, planned),
        banners=facts.banners(material),
        verdicts=verdict_lines(verdicts),
        figures=figures,
        notes=notes,
        published=published,
        sections=sections,
        unfinished=unfinished(trials, study.axes),
        cost=cost(trials, planned),
        provenance=facts.provenance(trials, planned),
        folded=[t for t in (all_measures(compared), every_trial(compared)) if t],
        fixed=facts.fixed(trials, study.fields),
    )


def _sections(figures: dict[str, Figure], tables: list[Table]) -> list[Section]:
    """(id, title, figures, tables) of those sections that have any."""
    named = {table.name: table for table in tables}
    found = [
        (
            id,
            name,
            [figures[figure] for figure in its if figure in figures],
            [named[table] for table in own if table in named],
        )
        for id, (name, own, its) in SECTIONS.items()
    ]
    return [section for section in found if section[2] or section[3]]


def _sortable(cell: Any) -> str:
    """The value of `data-sort`; empty where the text sorts as well."""
    if isinstance(cell.sort, float | int) and not isinstance(cell.sort, bool):
        return f"{cell.sort:.8g}" if np.isfinite(cell.sort) else "–"
    return ""


def _legend(figure: Figure, compared: Compared) -> list[dict[str, Any]]:
    """What the legend of a figure in the page has: buttons for series, pictures for the rest."""
    found = []
    names = compared.colours if figure.series and len(compared.colours) > 1 else []
    for name, look in legend_of(figure, compared):
        if "ls" not in look:  # a colour alone
            if name in names:
                found.append({"name": name, "series": names.index(name), "svg": ""})
        else:
            found.append({"name": name, "series": None, "svg": _sample(look)})
    return found


def _sample(look: dict[str, Any]) -> Any:
    """A small picture of a line or a marker."""
    from markupsafe import Markup

    if "marker" in look:
        from matplotlib.markers import MarkerStyle

        style = MarkerStyle(look["marker"])
        path = style.get_path().transformed(style.get_transform())
        outline = np.asarray(path.to_polygons()[0])
        points = " ".join(f"{10 + 8 * x:.1f},{6 - 8 * y:.1f}" for x, y in outline)
        inside = f'<polygon points="{points}" fill="var(--faint)"/>'
    else:
        dashes = look["ls"][1] if isinstance(look["ls"], tuple) else ()
        array = " ".join(f"{2 * d:g}" for d in dashes)
        ink = "var(--ink)" if look is TEACHER else "var(--faint)"
        inside = f'<path d="M0 6H24" stroke="{ink}" stroke-width="2" stroke-dasharray="{array}"/>'
    return Markup(f'<svg viewBox="0 0 24 12" aria-hidden="true">{inside}</svg>')
