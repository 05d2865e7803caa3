"""The figures of a report, in the order of the page, and as files.

A figure whose numbers are missing from every trial is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.reporting import accuracy, by_size, geometry, training
from sweep.reporting.drawing import COLOURS, FAINT, FORMATS, TEACHER, Figure, save
from sweep.reporting.groups import DASHES, MARKERS, Compared
from sweep.reporting.material import Material

FIGURES: dict[str, Callable[[Material], Figure | None]] = {
    "glance": by_size.at_a_glance,
    "rank": by_size.rank_by_size,
    "noise": accuracy.accuracy_by_noise,
    "robustness": by_size.rank_against_robustness,
    "variance": geometry.variance_curves,
    "subspace": geometry.subspace_curves,
    "agreement": geometry.agreement,
    "collapse": by_size.collapse,
    "curves": training.rank_by_epoch,
    "loss": training.loss_curves,
    "frequency": accuracy.accuracy_by_frequency,
    "fourier": accuracy.fourier_maps,
}


def figures_of(material: Material) -> dict[str, Figure]:
    """The figures that this material has numbers for, by name."""
    return {name: found for name, make in FIGURES.items() if (found := make(material))}


def legend_of(figure: Figure, compared: Compared) -> list[tuple[str, dict[str, Any]]]:
    """(name, how matplotlib draws it) of what a figure's legend explains."""
    entries: list[tuple[str, dict[str, Any]]] = []
    if figure.series:
        for i, name in enumerate(compared.colours):
            entries.append((name, {"color": COLOURS[i % len(COLOURS)], "lw": 3}))
    several = compared.mark_names if len(compared.mark_names) > 1 else []
    if figure.marks == "lines":
        for i, name in enumerate(several):
            entries.append((name, {"color": FAINT, "ls": DASHES[i % len(DASHES)], "lw": 2}))
    if figure.marks == "points":
        for i, name in enumerate(several or compared.panel_names):
            marker = MARKERS[i % len(MARKERS)]
            entries.append((name, {"color": FAINT, "ls": "", "ms": 7, "marker": marker}))
    if figure.teacher:
        entries.append(("teacher", TEACHER))
    return [(name, look) for name, look in entries if name]


def save_figures(material: Material, folder: Path, ending: str) -> list[Path]:
    """Write every figure as FOLDER/NAME.ENDING. Raises: ValueError for an ending not in FORMATS."""
    if ending not in FORMATS:
        raise ValueError(f"--format {ending}: expected one of {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures_of(material).items():
        path = folder / f"{name}.{ending}"
        save(figure, path, legend_of(figure, material.compared))
        paths.append(path)
    return paths
