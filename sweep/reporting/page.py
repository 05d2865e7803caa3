"""The page of a report: what was compared and held fixed, tables, figures, caveats.

It shows every group's numbers with their spread over seeds, and declares no winner. Groups meet
in one figure only if they differ in student and arm alone: never with a different objective,
input resolution, number of epochs or N.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shards.support import storage
from sweep.journal.records import Run, read_run
from sweep.reporting.drawing import interval_of, style_of
from sweep.reporting.figures import draw
from sweep.reporting.summary import (
    Group,
    Teacher,
    columns,
    group_results,
    natural,
    random_teachers_warning,
    setting,
    severities,
    teachers,
)
from trainers.probes.names import arrow

NAME, TEMPLATE = "report.html", "report.html.j2"
# Test arms that are applied at each network's own input size.
AT_INPUT = tuple(f"test/{n}/" for n in ("noise/paper", "band_noise", "low_pass", "high_pass"))
UNSTEADY = 1e-3  # relative spread of a teacher's value between trials that is worth a note
FEW = 5  # seeds below which no difference is decided
OnFigures = Callable[[int, int], None]
Column = tuple[str, str, float, int]  # metric without its prefix, title, factor, digits
GEOMETRY: list[Column] = [
    ("rank/effective", "effective rank (p from s²)", 1, 2),
    ("rank/roy_vetterli", "effective rank (p from s, Roy & Vetterli)", 1, 2),
    ("rank/rankme", "RankMe", 1, 2),
    ("rank/participation", "participation ratio", 1, 2),
    ("dims/90", "dims @ 90 %", 1, 1),
    ("dims/95", "dims @ 95 %", 1, 1),
    ("dims/99", "dims @ 99 %", 1, 1),
    ("uniformity", "uniformity, distinct pairs", 1, 3),
    ("uniformity/paper", "uniformity, with self-pairs", 1, 3),
]
AGREEMENT: list[Column] = [
    ("cosine_to_teacher", "cosine to teacher", 1, 3),
    ("alignment", "squared distance to teacher", 1, 3),
    ("infonce/paper", "InfoNCE in batches (paper), nats", 1, 3),
    ("infonce/full", "InfoNCE full set, nats", 1, 3),
    ("infonce/bound", "information bound, nats", 1, 3),
    ("infonce/retrieval1", "retrieval @ 1, %", 100, 1),
]


def write_report(
    run_dir: str | Path,
    out: str | Path | None = None,
    on_figures: OnFigures = lambda done, total: None,
) -> Path:
    """Write RUN/report.html (or `out`) and return its path; equal results give equal bytes.

    `on_figures(done, total)` is called before the figures of each comparison are drawn.

    Raises: ValueError for a run that cannot be read or has no result, OSError where the file
        cannot be written.
    """
    target = Path(out) if out else Path(run_dir) / NAME
    html = render(read_results(run_dir), Path(run_dir).resolve().name, on_figures)
    storage.write(str(target), html.encode())
    return target


def read_results(run_dir: str | Path) -> Run:
    """The results of a run. Raises: as `read_run`, and ValueError where there is no result."""
    run = read_run(run_dir, arrays=True)
    if not run.results:
        last = f", the last with `{run.failures[-1].error}`" if run.failures else ""
        failed = f"{len(run.failures)} failures{last}"
        raise ValueError(f"{run_dir}: 0 results and {failed}; expected a finished trial")
    return run


def render(run: Run, title: str, on_figures: OnFigures = lambda done, total: None) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    groups, references = group_results(run.results), teachers(run.results)
    extra, style = columns(groups), style_of(groups)
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"text": _text, "interval_of": interval_of, "picture": _picture}
    fixed = {k: v for k, v in groups[0].config.items() if k not in {*extra, "student", "arm"}}
    return pages.get_template(TEMPLATE).render(
        title=title,
        banner=random_teachers_warning(run.results),
        settings=[_setting(teacher, groups) for teacher in references],
        groups=groups,
        few=FEW,
        notes=[*run.notes, *_notes(groups, references)],
        tables=_tables(run),
        comparisons=_comparisons(groups, references, on_figures),
        failures=run.failures,
        extra=extra,
        style=style,
        fixed=fixed,
        environment=_environment(run),
    )


def _text(value: Any) -> str:
    """A configuration value for a reader: 1,438, 0.001, a name as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_text(value) for value in values))


def _picture(svg: str) -> str:
    """SVG as a data URI. The ids in inline SVG would collide between figures of one page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _setting(teacher: Teacher, groups: list[Group]) -> dict[str, Any]:
    """What was compared with one teacher on one data set."""
    own = [group for group in groups if setting(group.fields) == setting(teacher.fields)]
    views: dict[str, list[str]] = {}
    for group in own:
        seen = _text(group.data.views_per_sample)
        views.setdefault(str(group.config["arm"]), []).append(seen)
    shown = ("batch_size", "lr", "objective", "input")
    values = {k: ", ".join(_distinct(g.fields.get(k, "-") for g in own)) for k in shown}
    return {
        "teacher": teacher,
        "groups": own,
        "data": own[0].data,
        "students": _distinct(group.config["student"] for group in own),
        "seeds": sorted({s for group in own for s in group.seeds}, key=natural),
        "views": {arm: " or ".join(_distinct(seen)) for arm, seen in views.items()},
        "values": values | {"length": ", ".join(_distinct(_length(g.fields) for g in own))},
    }


def _length(fields: dict[str, Any]) -> str:
    """Duration of a group's training: `30 epochs`, `1000 steps`."""
    return fields.get("duration") or f"{_text(fields.get('epochs', '-'))} epochs"


def _notes(groups: list[Group], references: list[Teacher]) -> list[str]:
    """Caveats that apply to the numbers of this run."""
    notes = []
    if len({tuple(map(str, group.seeds)) for group in groups}) > 1:
        notes.append("Groups do not all have the same seeds: their means are not paired.")
    native = [group.results[0] for group in groups if group.config.get("input") == "native"]
    if any(name.startswith(AT_INPUT) for result in native for name in result.metrics):
        notes.append(
            "Noise after normalisation (`paper`), bands, filters and waves act at each network's "
            "own input size. Where students see native images and the teacher larger ones, its "
            "values are not comparable with theirs: compare students with each other."
        )
    for teacher in references:
        loose = [m for m, s in teacher.metrics.items() if (s.sd or 0) > UNSTEADY * abs(s.mean)]
        if loose:
            where = f"{teacher.fields['dataset']}, {teacher.fields['teacher']}"
            why = "its row shows the mean over trials"
            notes.append(
                f"Teacher values differ between trials ({where}; {why}): {', '.join(loose)}"
            )
        if not teacher.metrics:
            notes.append(f"No trial holds values of the teacher {teacher.fields['teacher']}.")
    return notes


def _tables(run: Run) -> list[dict[str, Any]]:
    """The tables with their columns; the last has every metric that the others have not."""
    noises = [
        (f"noise/{a}/{b}/accuracy", f"noise {b} ({a}), %", 100, 2)
        for a, b in severities(run.results)
    ]
    accuracy: list[Column] = [("linear/paper/accuracy", "probe, clean, %", 100, 2), *noises]
    known = {name for name, *_ in (*accuracy, *GEOMETRY, *AGREEMENT)}
    names = sorted({n[5:] for r in run.results for n in r.metrics if n[:5] == "test/"} - known)
    main = [accuracy[0], *noises, GEOMETRY[0], AGREEMENT[0], AGREEMENT[2]]
    kinds: list[dict[str, Any]] = [
        {"title": "Size and accuracy", "columns": accuracy, "sizes": True, "kind": "sd"},
        {"title": "Geometry of the test embeddings", "columns": GEOMETRY, "kind": "sd"},
        {"title": "Agreement with the teacher", "columns": AGREEMENT, "kind": "sd"},
        {"title": "95 % t intervals of the mean", "columns": main, "kind": "interval"},
        {"title": "Other measurements", "columns": [(n, n, 1, 4) for n in names], "kind": "sd"},
    ]
    return [kind | {"columns": _with_arrows(kind["columns"])} for kind in kinds]


def _with_arrows(columns: list[Column]) -> list[Column]:
    """Titles with ↑ where higher is better and ↓ where lower is."""
    return [(name, f"{title} {arrow(name)}".rstrip(), by, n) for name, title, by, n in columns]


def _comparisons(
    groups: list[Group], references: list[Teacher], on_figures: OnFigures
) -> list[dict[str, Any]]:
    """Figures of each set of groups that differ in student and arm alone.

    `views` may differ with the arm (a clean image has one), but not inside an arm.
    """
    style, views = style_of(groups), {}
    for group in groups:
        views.setdefault(str(group.config["arm"]), set()).add(_text(group.config.get("views")))
    free = {"student", "arm"} | ({"views"} if all(len(v) == 1 for v in views.values()) else set())
    names = [name for name in columns(groups) if name not in free]
    members: dict[str, list[Group]] = {}
    for group in groups:
        shared = {name: v for name, v in group.fields.items() if name not in free}
        members.setdefault(json.dumps(shared, sort_keys=True), []).append(group)
    found = []
    for done, compared in enumerate(members.values()):
        on_figures(done, len(members))
        first = compared[0].fields
        teacher = next(t for t in references if setting(t.fields) == setting(first))
        about = {name: _text(first.get(name, "-")) for name in names}
        found.append({"about": about, "drawings": draw(compared, teacher, style)})
    return found


def _environment(run: Run) -> dict[str, list[str]]:
    """Each entry's distinct values over the trials."""
    every = [result.environment.entries() for result in run.results]
    return {name: _distinct(one[name] for one in every) for name in sorted(every[0])}
