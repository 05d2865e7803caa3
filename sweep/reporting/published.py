"""The paper's Table I, with this study's values beside the published ones."""

from __future__ import annotations

import math
from typing import Any

from sweep.analysis.mean_spectrum import rank_of_mean_spectrum
from sweep.analysis.published import paper_numbers
from sweep.analysis.values import same
from sweep.reporting.groups import Group, Setting
from sweep.reporting.material import Material
from sweep.reporting.stat import Stat
from sweep.reporting.tables import Cell, Measure, Table, stat_cell
from trainers.config.schema import TrialConfig

MEAN_SPECTRUM = "rank/mean_spectrum"  # no metric of a trial: one number for all seeds of a group
# The paper's batches are in the order of the test file; the probe `file_order` measures them so.
IN_FILE_ORDER = {name: f"{name}/file_order" for name in ("infonce/paper", "uniformity/paper")}
COLUMNS: list[Measure] = [
    (MEAN_SPECTRUM, "rank of the mean spectrum", 1, 2),
    ("rank/effective", "effective rank", 1, 2),
    ("dims/90", "dims for 90 %", 1, 1),
    ("linear/paper/accuracy", "clean, %", 100, 2),
    ("noise/paper/0.05/accuracy", "noise 0.05, %", 100, 2),
    ("noise/paper/0.1/accuracy", "noise 0.1, %", 100, 2),
    ("noise/paper/0.2/accuracy", "noise 0.2, %", 100, 2),
    ("infonce/paper", "InfoNCE", 1, 4),
    ("uniformity/paper", "uniformity", 1, 4),
]
RECIPE: dict[str, Any] = {
    "input": "teacher", "epochs": 5, "batch_size": 64, "lr": 0.001, "optimizer": "adam",
    "objective": "cosine", "schedule": "constant", "weight_decay": 0.0, "data.test": 10_000,
    "target": "teacher", "precision": "fp32", "ema": 0.0, "clip_norm": 0.0, "accumulate": 1,
    "warmup": "0 steps", "validation_samples": 0, "data.classes": 10, "data.train": 50_000,
}  # fmt: skip


def comparable(setting: Setting) -> bool:
    """Whether a setting has the paper's data set and teacher."""
    teacher = str(setting.fields.get("teacher"))
    return setting.fields.get("dataset") == "cifar10" and teacher == "open_clip:ViT-B-32:openai"


def published_table(material: Material) -> Table | None:
    """Published and own values, two rows a student; None where no setting is comparable.

    Of several settings and recipes those that are nearest to the paper's are shown.
    """
    numbers = paper_numbers()
    found: list[tuple[int, int, Setting, list[list[Group]]]] = []
    for setting in filter(comparable, material.compared.settings):
        own = [_nearest(setting, published["fields"]) for published in numbers["groups"]]
        groups = [group for nearest in own for group in nearest]
        if groups:
            # Fewest differences first; of equally near ones the setting with most of the students.
            apart = max(len(_differences(group)) for group in groups)
            found.append((apart, -len([one for one in own if one]), setting, own))
    if not found:
        return None
    *nearness, setting, own = min(found, key=lambda one: one[:2])
    shown = [nearest[0] if nearest else None for nearest in own]
    ties = [f"{len(groups)} groups {groups[0].label}" for groups in own if len(groups) > 1]
    if (tied := sum(list(one[:2]) == nearness for one in found)) > 1:
        ties.append(f"{tied} settings {setting.name}")
    said = f" Of equally near ones the first is shown: of {'; of '.join(ties)}." if ties else ""
    return _table(material, setting, numbers, shown, said)


def _nearest(setting: Setting, fields: dict[str, Any]) -> list[Group]:
    """The groups with these fields that differ least from the paper's recipe."""
    groups = [g for g in setting.groups if all(g.fields.get(n) == v for n, v in fields.items())]
    least = min((len(_differences(group)) for group in groups), default=0)
    return [group for group in groups if len(_differences(group)) == least]


def _differences(group: Group) -> list[str]:
    """What of the paper's recipe is otherwise in a group: `epochs 30 (paper: 5)`."""
    own = {name: _field(group, name) for name in RECIPE}
    return [f"{k} {own[k]} (paper: {v})" for k, v in RECIPE.items() if own[k] != v]


def _field(group: Group, name: str) -> Any:
    """A field's value; its default where it is of a later version than the result."""
    value, known = group.fields.get(name), TrialConfig.model_fields
    if not same(value, None) or name not in known or name == "epochs":
        return value  # trials with a `duration` have no number of epochs
    return known[name].default


def _said_of(own: list[Group | None], numbers: dict[str, Any]) -> str:
    """How the groups shown differ from the paper's recipe, each by its own fields."""
    labels: dict[str, list[str]] = {}
    for group, published in zip(own, numbers["groups"], strict=True):
        if group:
            labels.setdefault("; ".join(_differences(group)), []).append(published["label"])
    if len(labels) == 1:
        (differences,) = labels
        return (
            f" This study differs from the paper’s recipe in {differences}." if differences else ""
        )
    parts = [f"{', '.join(of)}: {what or 'nothing'}" for what, of in labels.items()]
    return f" Differences from the paper’s recipe: {'. '.join(parts)}."


def _table(
    material: Material,
    setting: Setting,
    numbers: dict[str, Any],
    own: list[Group | None],
    said: str,
) -> Table:
    """said: further words of the note."""
    columns = [Cell("student"), Cell("arm"), Cell("source"), Cell("n", number=True)]
    columns += [Cell(title.replace(", %", ",\u00a0%"), number=True) for _, title, *_ in COLUMNS]
    published = {name: [value, None] for name, value in numbers["teacher"].items()}
    rows = [
        [*_head("teacher", "", "paper", None), *_published(published, None, 0)],
        [*_head("", "", "here", None)],
    ]
    rows[1] += [stat_cell(_teacher(setting, m[0]), m) for m in COLUMNS]
    for one, group in zip(numbers["groups"], own, strict=True):
        student, arm = one["fields"]["student"], one["fields"]["arm"]
        head = _head(student, arm, "paper", one["n"])
        rows.append([*head, *_published(one["metrics"], one["n"], numbers["ddof"])])
        cells = _head("", "", "here", group.n if group else None)
        for measure in COLUMNS:
            stat = _own(material, group, measure[0]) if group else None
            cells.append(stat_cell(stat, measure, group.n if group else None))
        rows.append(cells)
    note = (
        f"Source: {numbers['source']}. Deviations are over n − 1; the paper’s, over n, are "
        "converted. The paper’s effective rank is that of the mean spectrum over seeds, one number "
        "without a deviation; beside it is the mean of the seeds’ ranks. InfoNCE and uniformity "
        "are of batches in file order where the probe file_order was run, as in the paper."
    )
    note += _said_of(own, numbers) + said
    marked = set(range(1, len(rows), 2))
    return Table("paper", "The paper’s Table I, and this study", columns, rows, note, marked)


def _own(material: Material, group: Group, name: str) -> Stat | None:
    """A group's value in a column: over seeds, or of the mean over seeds of their spectra."""
    if name == MEAN_SPECTRUM:
        spectra = [one.tolist() for one in material.arrays_of(group, "test/spectrum")]
        return Stat(rank_of_mean_spectrum(spectra), None, len(spectra)) if spectra else None
    in_file_order = group.stat(f"test/{IN_FILE_ORDER.get(name, name)}")
    return in_file_order or group.stat(f"test/{name}")


def _teacher(setting: Setting, name: str) -> Stat | None:
    """The teacher's value in a column; it has one spectrum, whose rank is its effective rank."""
    named = f"teacher/{IN_FILE_ORDER.get(name, name)}"
    plain = "rank/effective" if name == MEAN_SPECTRUM else name
    return setting.teacher.get(named) or setting.teacher.get(f"teacher/{plain}")


def _head(student: str, arm: str, source: str, n: int | None) -> list[Cell]:
    return [Cell(student), Cell(arm), Cell(source), Cell(str(n) if n else "–", number=True)]


def _published(values: dict[str, Any], n: int | None, ddof: int) -> list[Cell]:
    """Cells of published numbers, their deviations converted to ddof = 1.

    The students' published effective rank (n is not None) is that of their mean spectrum.
    """
    ranks = values.get("test/rank/effective", (None, None))
    values = values | {f"test/{MEAN_SPECTRUM}": ranks}
    if n is not None:
        values.pop("test/rank/effective", None)
    cells = []
    for measure in COLUMNS:
        mean, deviation = values.get(f"test/{measure[0]}", (None, None))
        sd = None
        if deviation is not None and n is not None and n > 1:
            sd = deviation * math.sqrt((n - ddof) / (n - 1))
        cells.append(stat_cell(None if mean is None else Stat(mean, sd, n or 1), measure, n))
    return cells
