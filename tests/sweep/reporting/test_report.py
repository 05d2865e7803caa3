"""The HTML report: complete, self-contained, escaped, repeatable; and its command line."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from sweep.report import main
from sweep.reporting.drawing import half_width, interval_of
from sweep.reporting.page import write_report
from sweep.reporting.summary import Stat
from tests.sweep.made import result_line, write_journal

ROOT = Path(__file__).parents[3]
SIZES = {"width:1": 811_264, "width:2": 1_405_440, "width:4": 2_732_032}
VOID = {"meta", "img", "br", "hr", "link", "input"}


def record(student="width:1", arm="clean", seed=0, **config):
    """One finished trial; `config` overrides fields of its configuration."""
    rng = np.random.default_rng([SIZES.get(student, 1), len(arm), seed])
    base = {"dataset": "digits", "teacher": "embedded", "objective": "cosine", "epochs": 12}
    base |= {"batch_size": 64, "lr": 0.001, "input": "native", "views": 8}
    spectrum = np.exp(-np.arange(40) / 6)
    names = ("rank/effective", "linear/paper/accuracy", "cosine_to_teacher", "infonce/paper")
    metrics = {f"test/{name}": float(rng.uniform(0.4, 0.6)) for name in names}
    metrics |= {f"test/noise/pixel/{s}/accuracy": 0.5 for s in ("0.05", "0.1", "0.2")}
    return {
        "id": f"{student}-{arm}-{seed}-{len(config)}",
        "config": base | {"student": student, "arm": arm, "seed": seed} | config,
        "student": {"total": SIZES.get(student, 1), "macs": 3_588_000},
        "data": {"train": 1438, "test": 359, "views_per_sample": 8},
        "metrics": metrics,
        "teacher": {name.replace("test/", "teacher/"): 0.9 for name in metrics},
        "arrays": dict.fromkeys(
            ("test/spectrum", "teacher/spectrum"), (spectrum / spectrum.sum()).tolist()
        ),
        "epochs": [{"step": 10 * i, "epoch": i, "loss": 1 / i, "time_ms": 1} for i in (1, 2, 3)],
    }


def make_run(folder, records, failures=()):
    return write_journal(folder, [*map(result_line, records), *failures])


def grid():
    return [record(s, a, i) for s in SIZES for a in ("clean", "noise:0.1") for i in range(3)]


class Page(HTMLParser):
    """Rows of cells, images, all attributes; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.attributes, self.open = [], [], [], []
        self.text, self.tags = "", set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def page_of(folder):
    return Page(write_report(folder).read_text())


def test_every_group_figure_and_failure_is_there(tmp_path):
    error = "ValueError: loss: got nan; lower lr"
    failure = {"event": "failed", "trial": "f00", "config": {"seed": 7}, "error": error}
    page = page_of(make_run(tmp_path / "my-grid", grid(), [failure]))
    rows = [tuple(cell.strip() for cell in row[:2]) for row in page.rows]
    for student in SIZES:
        assert {(student, "clean"), (student, "noise:0.1")} <= set(rows)
    assert ("teacher", "embedded") in rows
    assert any(row[0] == "f00" and row[-1] == error for row in page.rows)
    assert len(page.images) == 5
    assert all(image["alt"] and "width:1" in image["alt"] for image in page.images[:4])
    for words in ("my-grid", "1,438", "811,264", "No winner is declared", "below 0.25", "ddof"):
        assert words in page.text


def test_numbers_in_the_page_are_means_and_sds(tmp_path):
    records = [record(seed=seed) for seed in range(4)]
    values = [100 * rec["metrics"]["test/linear/paper/accuracy"] for rec in records]
    page = page_of(make_run(tmp_path / "r", records))
    expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert any(cell == expected for row in page.rows for cell in row)


def test_half_width_is_the_t_interval():
    low, high = t.interval(0.95, 2, loc=5.0, scale=0.3 / np.sqrt(3))
    assert half_width(Stat(5.0, 0.3, 3)) == pytest.approx((high - low) / 2)
    assert half_width(Stat(5.0, None, 1)) is None
    assert half_width(Stat(5.0, 0.0, 2)) == 0


def test_intervals_of_shares_stay_between_0_and_1():
    high = Stat(0.99, 0.02, 3)
    assert high.mean + half_width(high) > 1
    low, end = interval_of(high, "linear/paper/accuracy")
    assert (low, end) == (high.mean - half_width(high), 1.0)
    assert interval_of(Stat(0.5, 1.0, 3), "rank/effective")[0] < 0


def test_the_page_loads_nothing(tmp_path):
    folder = make_run(tmp_path / "r", [record()])
    page = page_of(folder)
    assert not page.tags & {"script", "link", "iframe", "object"}
    for name, value in page.attributes:
        if name in ("src", "href", "srcset", "data"):
            assert value.startswith(("data:image/svg+xml;base64,", "#"))
    assert not re.search(r"https?://|@import|url\(", (folder / "report.html").read_text())


def test_names_are_escaped_everywhere(tmp_path):
    evil = '<script>alert("$x_1$")</script>'
    failure = {"event": "failed", "trial": evil, "config": {"arm": evil}, "error": evil}
    records = [record(arm=evil), record(evil), record(dataset=evil, teacher=evil, objective=evil)]
    records[0]["metrics"]["test/" + evil] = 1.0
    records[0]["environment"] = {"device": evil}
    page = page_of(make_run(tmp_path / "a<b>", records, [failure]))
    assert "script" not in page.tags
    assert evil in page.text
    for image in page.images:
        assert b"<script" not in base64.b64decode(image["src"].partition(",")[2])


@pytest.mark.thorough
def test_two_writes_are_byte_equal_in_two_processes(tmp_path):
    folder = make_run(tmp_path / "r", grid()[:4])
    first = write_report(folder).read_bytes()
    other = tmp_path / "other.html"
    assert command(folder, "--out", other).returncode == 0
    assert other.read_bytes() == first
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


def test_figures_never_mix_configurations(tmp_path):
    small = [record(seed=seed) for seed in range(2)]
    for rec in small:
        rec["id"] += "small"
        rec["data"] = rec["data"] | {"test": 100}
    records = [record(), *small, record(objective="mse")]
    page = page_of(make_run(tmp_path / "r", records))
    assert "Figures: objective cosine, data.test 359" in page.text
    assert "Figures: objective cosine, data.test 100" in page.text
    assert "Figures: objective mse, data.test 359" in page.text
    assert len(page.images) == 15


def test_a_clean_arm_with_fewer_views_shares_the_figures(tmp_path):
    records = [record(), record(arm="noise:0.1")]
    records[0]["config"]["views"] = records[0]["data"]["views_per_sample"] = 1
    page = page_of(make_run(tmp_path / "r", records))
    assert len(page.images) == 5
    assert "clean 1, noise:0.1 8" in page.text


def test_bare_records_make_a_page(tmp_path):
    bare = record()
    for name in ("teacher", "arrays", "epochs"):
        del bare[name]
    bare["metrics"] = {"test/linear/paper/accuracy": 0.5}
    page = page_of(make_run(tmp_path / "r", [bare]))
    assert page.images == []
    assert "no values for any figure" in page.text
    assert any("50.00 ± \u2013" in cell for row in page.rows for cell in row)


def test_unsteady_teachers_unequal_seeds_and_environments_are_said(tmp_path):
    records = [record(seed=0), record(seed=1), record("width:2", seed=0)]
    records[1]["teacher"]["teacher/linear/paper/accuracy"] = 0.5
    records[1]["environment"] = {"torch": "9"}
    text = page_of(make_run(tmp_path / "r", records)).text
    assert "do not all have the same seeds" in text
    assert "teacher/linear/paper/accuracy" in text
    assert "more than one environment" in text


def command(*arguments):
    line = [sys.executable, "-m", "sweep.report", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m sweep.report runs/demo" in capsys.readouterr().out


def test_errors_are_one_line_and_exit_2(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "absent")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "absent: no such folder" in line


@pytest.mark.parametrize(
    "text", ["", '{"event": "failed", "trial": "a", "config": {}, "error": "x", "time_ms": 1}\n']
)
def test_a_run_without_results_is_refused(tmp_path, capsys, text):
    (tmp_path / "journal.jsonl").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "0 results" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_an_unwritable_target_is_one_line(tmp_path, capsys):
    folder = make_run(tmp_path / "r", [record()])
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main([str(folder), "--out", str(tmp_path / "file" / "x.html")])
    assert "file" in capsys.readouterr().err.splitlines()[-1]


def test_json_prints_rows_and_writes_nothing(tmp_path, capsys):
    folder = make_run(tmp_path / "r", [record()])
    with pytest.raises(SystemExit, match="0"):
        main([str(folder), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["teacher", "student"]
    assert not (folder / "report.html").exists()
