"""How every figure of a report is drawn: panels by matplotlib, as parts of a page or as files.

A figure is a list of panels, and a panel is a function that draws into one. The page lays panels
out by itself, so that they stand side by side on a wide screen and below one another on a phone;
a file holds all of them. In the page, colours are CSS variables (light and dark), text is text, and
each value that a reader may point at has an invisible circle with its words.

Equal input gives equal bytes: no date is written, and ids come from a fixed salt.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, which remain distinct with colour blindness, without their yellow, which
# is too pale for lines. https://jfly.uni-koeln.de/color/
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a3d9a", "#8c6d46"),
)
INK, FAINT, GRID, PAPER = "#1c2733", "#8a94a0", "#e3e7ec", "#fffffe"
VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)} | {
    INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--page)",
}  # fmt: skip
TEACHER = {"color": INK, "ls": (0, (4, 2)), "lw": 1.4}
GUIDE = {"color": FAINT, "ls": (0, (1, 2)), "lw": 1.3}
WIDTH, HEIGHT = 3.9, 3.0  # of a panel, in inches
NAME = 0.08  # height of a line's name, as a share of the panel
ACROSS = 3  # panels in a row of a file
FORMATS = ("svg", "png", "pdf")


def settings(name: str, fonts: str) -> dict[Any, Any]:
    """matplotlib's settings for a figure; fonts of an SVG: `none` for text, `path` for outlines."""
    from cycler import cycler

    off = ("axes.spines.top", "axes.spines.right", "axes.spines.left", "legend.frameon")
    return {
        "svg.hashsalt": name,
        "svg.fonttype": fonts,
        "axes.prop_cycle": cycler(color=COLOURS),
        "text.parse_math": False,  # names are data: a `$` in one is a `$`
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.labelsize": 9.5,
        "axes.edgecolor": FAINT,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.color": GRID,
        "ytick.labelcolor": INK,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "lines.solid_capstyle": "round",
        **dict.fromkeys(off, False),
        **dict.fromkeys(("axes.labelcolor", "text.color", "axes.titlecolor"), INK),
    }


@dataclass
class Panel:
    """One pair of axes, and the tooltips of the values in it.

    tooltips: (x, y, text, series) of each value that a reader may point at.
    rules: (y, name, colour) of the horizontal lines.
    """

    axis: Any
    tooltips: list[tuple[float, float, str, str]] = field(default_factory=lambda: [])
    rules: list[tuple[float, str, str]] = field(default_factory=lambda: [])

    def tooltip(self, x: float, y: float, text: str, look: dict[str, Any]) -> None:
        """Show `text` where a reader points at (x, y)."""
        if np.isfinite([x, y]).all():
            self.tooltips.append((x, y, text, str(look.get("gid", ""))))

    def rule(self, y: float, text: str, look: dict[str, Any]) -> None:
        """A horizontal line through the panel; `name_rules` writes its name."""
        self.axis.axhline(y, **look)
        self.rules.append((y, text, look["color"]))

    def name_rules(self) -> None:
        """Write the names of the lines, each at the end and on the side with the fewest values.

        To be called once everything is drawn, when the limits of the axes are final.
        """
        to_axes = self.axis.transData + self.axis.transAxes.inverted()
        values_V2 = np.array([to_axes.transform((x, y)) for x, y, *_ in self.tooltips])
        for y, text, colour in self.rules:
            level = to_axes.transform((self.axis.get_xlim()[0], y))[1]
            places = [(end, side) for end in ("right", "left") for side in (1, -1)]
            # A name that would leave the panel is the last choice.
            covered = [
                _values_near(values_V2, level, end, side, text)
                + 1000 * (not 0 < level + side * NAME < 1)
                for end, side in places
            ]
            end, side = places[int(np.argmin(covered))]
            self.axis.annotate(
                text, (float(end == "right"), y), (-2 if end == "right" else 2, 3 * side),
                xycoords=("axes fraction", "data"), textcoords="offset points",
                ha=end, va="bottom" if side > 0 else "top", fontsize=8.5, color=colour,
            )  # fmt: skip


def _values_near(values_V2: np.ndarray, level: float, end: str, side: int, text: str) -> int:
    """How many values (x, y), in shares of the panel, the name of a line would cover."""
    if not len(values_V2):
        return 0
    far, width = side * (values_V2[:, 1] - level), 0.028 * len(text)
    beside = values_V2[:, 0] > 1 - width if end == "right" else values_V2[:, 0] < width
    return int(np.sum(beside & (far > -0.02) & (far < NAME + 0.03)))


Draw = Callable[[Panel], None]


@dataclass(frozen=True)
class Figure:
    """A figure: title, what it shows, its numbers in words, and its panels by title.

    series, marks: whether its legend has colours, and markers or dashes. teacher: whether the
    dashed line of the teacher is in it.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: list[tuple[str, Draw]]
    series: bool = True
    marks: str = ""  # "points", "lines" or nothing
    teacher: bool = False


def _new(rows: int = 1, columns: int = 1, extra: float = 0.0) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas((WIDTH * columns, HEIGHT * rows + extra), dpi=72, layout="constrained")
    return canvas, list(canvas.subplots(rows, columns, squeeze=False).ravel())


def as_svg(name: str, draw: Draw) -> str:
    """One panel as an SVG element for a page; `name` must be unique in it."""
    from matplotlib import rc_context

    with rc_context(settings(name, "none")):
        canvas, (axis,) = _new()
        draw(panel := Panel(axis))
        panel.name_rules()
        canvas.draw_without_rendering()  # lays out, so that positions are final
        canvas.set_layout_engine("none")
        height = canvas.get_figheight() * 72
        points = [axis.transData.transform((x, y)) for x, y, *_ in panel.tooltips]
        canvas.savefig(
            out := io.StringIO(),
            format="svg", transparent=True, metadata={"Date": None, "Creator": None},
        )  # fmt: skip
    circles = "".join(
        f'<circle class="{series}" cx="{x:.1f}" cy="{height - y:.1f}" r="5" '
        f'data-tooltip="{html.escape(text)}"/>'
        for (x, y), (*_, text, series) in zip(points, panel.tooltips, strict=True)
    )
    return _for_page(out.getvalue(), circles)


def _for_page(text: str, circles: str) -> str:
    """matplotlib's SVG without what a page does not need, in the page's own colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", '<svg aria-hidden="true"', 1)
    text = re.sub(r'id="(series\d+)"', r'class="\1"', text)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), text)
    # Hundredths of a point are below any pixel. Attributes alone: labels keep their digits.
    text = re.sub(
        r'\b(?:d|x|y|transform|points)="[^"]*"',
        lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]),
        text,
    )
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.replace("</svg>", f'<g class="tooltips">{circles}</g></svg>').strip()


def save(figure: Figure, path: Path, legend: list[tuple[str, dict[str, Any]]]) -> None:
    """Write a figure with all its panels into a file, by its ending one of FORMATS."""
    from matplotlib import rc_context
    from matplotlib.lines import Line2D

    across = min(ACROSS, len(figure.panels))
    rows = -(-len(figure.panels) // across)
    with rc_context(settings(figure.name, "path")):
        canvas, axes = _new(rows, across, extra=0.5)
        for axis, (title, draw) in zip(axes, figure.panels, strict=False):
            draw(panel := Panel(axis))
            panel.name_rules()
            axis.set_title(title, loc="left")
        for axis in axes[len(figure.panels) :]:
            axis.remove()
        handles = [Line2D([], [], label=name, **look) for name, look in legend]
        if handles:
            canvas.legend(handles=handles, loc="outside upper left", ncols=6, columnspacing=1.4)
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        out = io.BytesIO()
        canvas.savefig(
            out, format=path.suffix[1:], dpi=200, facecolor="white",
            metadata=dates.get(path.suffix[1:]),
        )  # fmt: skip
    path.write_bytes(out.getvalue())


def finite(pairs: Any) -> np.ndarray:
    """(rows, 2): the rows without those that contain None, NaN or an infinity."""
    array_N2 = np.array(list(pairs), dtype=float).reshape(-1, 2)
    return array_N2[np.isfinite(array_N2).all(axis=1)]


def size(total: float) -> str:
    """Parameters for an axis: `0.81 M`, `24 k`."""
    return f"{total / 1e6:.3g} M" if total >= 1e5 else f"{total / 1e3:.3g} k"
