"""Results for tests of the journal and the report: the few values a test is about, and the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.results.record import TrialResult, parse_result

DATA = {
    "train": 1438, "test": 359, "classes": 10, "chance": 0.1, "dim": 512, "views_per_sample": 8,
}  # fmt: skip
COST = {"spec": "width:1", "trunk": 1, "head": 2, "total": 3, "macs": 4, "image_size": 32}
ENVIRONMENT = {
    "torch": "2.15.0", "numpy": "2.4", "scikit-learn": "1.9", "python": "3.11", "device": "cpu",
    "instruction_set": "AVX2", "threads": 1,
}  # fmt: skip
PREPROCESS = {
    "size": 32, "resize": None, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
}  # fmt: skip


def made(fields: dict[str, Any]) -> TrialResult:
    """A whole result. Values of no probe in particular are those of version 1 of `any`.

    fields: as in result.json, or for short `metrics`, `teacher` and `arrays` of the one probe;
    `data`, `student` and `environment` may be parts.
    """
    entry = {"version": 1, "undefined": []}
    entry |= {part: fields.get(part, {}) for part in ("metrics", "teacher", "arrays")}
    short = ("metrics", "teacher", "arrays", "data", "student", "environment")
    whole = {
        "format": "trial-result/2",
        "id": "0123456789abcdef",
        "source": "5" * 64,
        "weights_sha256": "7" * 64,
        "input": {"preprocess": PREPROCESS, "classes": ["one", "two"], "templates": ["a {}"]},
        "probes": {"any": entry},
        "epochs": [],
        "observations": {"rows": [], "teacher": {}},
        "data": DATA | fields.get("data", {}),
        "student": COST | fields.get("student", {}),
        "environment": ENVIRONMENT | fields.get("environment", {}),
    }
    return parse_result(whole | {n: v for n, v in fields.items() if n not in short})


def every(records: list[dict[str, Any]]) -> list[TrialResult]:
    return [made(record) for record in records]


def result_line(record: dict[str, Any]) -> dict[str, Any]:
    """The journal's event of a result, as JSON has it."""
    result = made(record)
    return {"event": "result", "trial": result.id, "time_ms": 1, "record": result.as_json()}


def write_journal(folder: Path, events: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "journal.jsonl").write_text(text + tail)
    return folder
