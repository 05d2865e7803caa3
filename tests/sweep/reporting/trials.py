"""Trials for tests of the report: synthetic, with a value of every kind that a figure shows."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from sweep.analysis.judged import judge_all
from sweep.reporting.page import read_study, write_report
from tests.sweep.made import result_line, write_journal

SIZES = {"width:1": 811_264, "width:2": 1_405_440, "width:4": 2_732_032}
BASE = {
    "dataset": "digits", "teacher": "embedded", "objective": "cosine", "epochs": 12,
    "batch_size": 64, "lr": 0.001, "input": "native", "views": 8, "data_seed": 0,
}  # fmt: skip
NAMES = (
    *("rank/effective", "rank/roy_vetterli", "linear/paper/accuracy", "cosine_to_teacher"),
    *("infonce/paper", "uniformity", "alignment", "retained/rank/effective"),
    *("retained/rank/ratio", "variance/within_class", "infonce/tuned/bound", "dims/90"),
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


def record(student: str = "width:1", arm: str = "clean", seed: int = 0, **config: Any) -> Any:
    """One finished trial; `config` overrides fields of its configuration."""
    rng = np.random.default_rng([SIZES.get(student, 1), len(arm), seed])
    spectrum = np.exp(-np.arange(20) / 6)
    shares = (spectrum / spectrum.sum()).tolist()
    metrics = {f"test/{name}": float(rng.uniform(0.4, 0.6)) for name in NAMES}
    metrics |= {f"test/noise/pixel/{s}/accuracy": 0.5 - s for s in (0.05, 0.1, 0.2)}
    metrics |= {f"test/band_noise/0.1/{b}/accuracy": 0.9 - 0.05 * b for b in range(1, 9)}
    waves = {"down": [0.0, 0.5], "across": [0.5, -0.5], "accuracy": [0.2, 0.3 + 0.1 * seed]}
    seen = [{"rank/effective": 9.0 - i, "cosine_to_teacher": 0.5} for i in range(3)]
    rows = [{"step": 10 * i, "epoch": i, "values": values} for i, values in enumerate(seen)]
    return {
        "id": f"{student}-{arm}-{seed}-{'-'.join(map(str, config.values()))}",
        "config": BASE | {"student": student, "arm": arm, "seed": seed} | config,
        "student": {"total": SIZES.get(student, 1), "macs": 3_588_000},
        "data": {"train": 1438, "test": 359, "views_per_sample": 8},
        "metrics": metrics,
        "teacher": {name.replace("test/", "teacher/"): 0.9 for name in metrics},
        "arrays": {
            "test/spectrum": shares,
            "teacher/spectrum": shares,
            "test/subspace": np.cumsum(shares).tolist(),
            **{f"test/fourier/0.5/{name}": values for name, values in waves.items()},
        },
        "epochs": [{"step": 10 * i, "epoch": i, "loss": 1 / i, "time_ms": 1} for i in (1, 2, 3)],
        "observations": {"rows": rows, "teacher": {"rank/effective": 20.0}},
    }


def grid(
    sizes: Iterable[str] = ("width:1", "width:4"), arms: Iterable[str] = ("clean", "noise:0.1")
) -> list[Any]:
    return [record(s, a, i) for s in sizes for a in arms for i in range(2)]


def make_run(folder: Path, records: Iterable[Any], events: Iterable[Any] = ()) -> Path:
    return write_journal(folder, [*map(result_line, records), *events])


def write_page(run: Path, *others: Path, out: Path | None = None, by: str | None = None) -> Path:
    """The report of these runs, as `python -m sweep.report` writes it."""
    runs = [run, *others]
    study = read_study(runs)
    return Path(write_report(runs, study, judge_all(runs, study=study), out, by))


class Page(HTMLParser):
    """Rows of cells, text, attributes, titles of panels; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text, self.tags = "", set[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h4":
            self.titles.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "h4" in self.open:
            self.titles[-1] += data

    def figures(self) -> list[str]:
        """Names of the figures, in their order."""
        ids = [value for name, value in self.attributes if name == "id" and value]
        return [value.removeprefix("figure-") for value in ids if value.startswith("figure-")]

    def words(self, figure: str) -> str:
        """The numbers of a figure in words."""
        labels = [value for name, value in self.attributes if name == "aria-label" and value]
        return next(value for value in labels if value.startswith(figure))
