"""Figures of accuracy by frequency: drawn from what was measured, and only then."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sweep.reporting.drawing import style_of
from sweep.reporting.figures import draw
from sweep.reporting.page import write_report
from sweep.reporting.summary import group_results, teachers
from tests.sweep.made import every, result_line, write_journal

WAVES = [(0.0, 0.5), (0.0, 1.0), (0.5, -0.5), (0.5, 0.0), (0.5, 0.5), (1.0, 0.0)]


def record(student: str, seed: int, shift: float) -> dict[str, Any]:
    metrics = {f"test/band_noise/0.1/{b}/accuracy": 0.9 - 0.05 * b + shift for b in range(1, 9)}
    metrics |= {f"test/low_pass/{c}/accuracy": c * (0.8 + shift) for c in (0.25, 0.5, 1)}
    down, across = (list(side) for side in zip(*WAVES, strict=True))
    values = [0.2 + shift + 0.1 * i for i in range(len(WAVES))]
    return {
        "id": f"{student}-{seed}",
        "config": {
            "dataset": "d",
            "teacher": "t",
            "student": student,
            "arm": "clean",
            "seed": seed,
        },
        "student": {"total": 3 + len(student)},
        "metrics": metrics,
        "teacher": {name.replace("test/", "teacher/"): 0.95 for name in metrics},
        "arrays": {
            "test/fourier/0.5/down": down,
            "test/fourier/0.5/across": across,
            "test/fourier/0.5/accuracy": values,
        },
    }


def drawings(records: list[dict[str, Any]]) -> dict[str, Any]:
    groups = group_results(every(records))
    (teacher,) = teachers(every(records))
    return {drawing.name: drawing for drawing in draw(groups, teacher, style_of(groups))}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return [record(s, i, 0.02 * i) for s in ("small", "larger") for i in (0, 1)]


def test_bands_and_filters_are_means_over_seeds(records):
    alt = drawings(records)["frequency"].alt
    assert "small clean, band_noise/0.1: 86 at 1, 81 at 2" in alt
    assert "small clean, low_pass: 20 at 0.25, 40 at 0.5, 81 at 1" in alt
    assert alt.count("larger clean, low_pass") == 1
    assert "high_pass" not in alt


def test_a_map_a_group_from_the_half_plane(records):
    drawing = drawings(records)["fourier"]
    assert "small clean, strength 0.5: 21 to 71" in drawing.alt
    assert drawing.svg.count("<image") or len(re.findall("QuadMesh", drawing.svg)) == 2


def test_what_was_not_measured_is_not_drawn(records):
    bare = [r | {"metrics": {"test/rank/effective": 2.0}, "arrays": {}} for r in records]
    assert not {"frequency", "fourier"} & set(drawings(bare))
    one = [*bare[:1], *records[1:]]
    assert "small clean, strength 0.5: 22 to 72" in drawings(one)["fourier"].alt


@pytest.mark.parametrize(("size", "said"), [("native", True), ("teacher", False)])
def test_a_report_says_where_noise_acts(records, size, said, tmp_path):
    for one in records:
        one["config"] |= {"input": size}
    text = write_report(write_journal(tmp_path, [result_line(r) for r in records])).read_text()
    assert ("not comparable with theirs" in text) is said
