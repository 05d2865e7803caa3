"""The table of values at the times in `probe_at` beside those at the end of training."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.analysis.curves import PROBED
from sweep.reporting.groups import Group
from sweep.reporting.material import Material
from sweep.reporting.stat import Frame, Stat, stat_of
from sweep.reporting.tables import (
    Cell,
    Measure,
    Table,
    key_cells,
    key_columns,
    noise_measures,
    stat_cell,
    title_cell,
)


def probed_table(material: Material) -> Table | None:
    """A row a group and time, the end included; None where no trial has `probe_at`."""
    compared, curves = material.compared, material.curves
    if not any(str(name).startswith(PROBED) for name in curves.columns):
        return None
    measures: list[Measure] = [
        ("rank/effective", "effective rank", 1, 2),
        ("cosine_to_teacher", "cosine to teacher", 1, 3),
        ("linear/paper/accuracy", "probe, clean, %", 100, 2),
        *noise_measures(compared),
    ]
    known = [m for m in measures if any(group.stat(PROBED + m[0]) for group in compared.groups)]
    columns = [*key_columns(compared), Cell("epoch", number=True), Cell("n", number=True)]
    columns += [title_cell(measure) for measure in known]
    rows: list[list[Cell]] = []
    for setting in compared.settings:
        for group in setting.groups:
            keys = key_cells(compared, setting, group)
            for epoch, count, stats in _moments(material, group, known):
                cells = [stat_cell(s, m, count) for s, m in zip(stats, known, strict=True)]
                text = f"{epoch:g}"
                rows.append(
                    [*keys, Cell(text, epoch, number=True), Cell(str(count), count), *cells]
                )
    note = "All test images, as at the end, which is each group’s last row."
    return Table("probed", "All probes during training", columns, rows, note)


def _moments(
    material: Material, group: Group, measures: list[Measure]
) -> Iterator[tuple[float, int, list[Stat | None]]]:
    """(epoch, seeds, a Stat a measure) of a group, in order; nothing where it has no such rows."""
    curves: Frame = material.curves
    names = [PROBED + measure[0] for measure in measures]
    own: Frame = curves[curves["trial"].isin(set(group.trials["trial"]))]
    own = own.dropna(subset=[name for name in names if name in own], how="all")
    if not len(own):
        return
    for epoch, rows in own.groupby("epoch", sort=True):
        stats = [stat_of(rows[name]) if name in rows else None for name in names]
        yield float(epoch), len(rows), stats
    yield _last_epoch(curves, group), group.n, [group.stat(name) for name in names]


def _last_epoch(curves: Frame, group: Group) -> float:
    """The epoch at which the group's trials ended."""
    own = curves[curves["trial"].isin(set(group.trials["trial"]))]
    return float(own["epoch"].max())
