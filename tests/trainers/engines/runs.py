"""The trainings that the gangs play, by number of ranks; 0 ranks is engine `single`.

A name says what is tried; NAME/ENGINE what it gave. Runs are small because there are many.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from trainers.objectives import OBJECTIVES

Run = dict[str, Any]
NEGATIVES = {"objective": "cosine+infonce"}
ZERO = {  # name: fields
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "offload1": {"zero_stage": 1, "offload": True},
    "offload3": {"zero_stage": 3, "offload": True},
}
FULLY = ("zero0", "zero2", "zero3")  # which are asked everything
LONG = (*FULLY, "zero1")  # which are asked 50 steps
SGD = {"optimizer": "sgd", "lr": 0.01, "steps": 10}
EXACT = NEGATIVES | {"elastic": "exact", "accumulate": 4, "clip_norm": 0.7}
RESUMED = {"steps": 6, "stops": [2, 5]}
OVERFLOWS = {"steps": 8, "overflow_at": 3}  # one backward pass is beyond float32
SCHEDULED = {"schedule": "cosine", "warmup": "3 steps", "epochs": None, "duration": "10 steps"}


def _run(name: str, fields: dict[str, Any], **options: Any) -> Run:
    return {"name": name, "fields": NEGATIVES | fields} | options


def _alike() -> list[Run]:
    """What every engine is asked to do."""
    return [
        _run("fifty", {}, steps=50),
        _run("clipped", {"clip_norm": 0.5}, **SGD),
        _run("accumulated", {"accumulate": 3}, **SGD),
        _run("half", {"precision": "fp16", "clip_norm": 1.0}, **OVERFLOWS),
        _run("brain", {"precision": "bf16"}, steps=3),
        _run("scheduled", SCHEDULED, steps=10),
    ]


def _exactly() -> list[Run]:
    """What DeepSpeed, which is float32 alone, is not asked."""
    runs = [_run(f"of {name}", {"objective": name}, steps=1) for name in OBJECTIVES]
    runs += [_run("fifty double", {}, steps=50), _run("apart", {"sync_batchnorm": False}, steps=1)]
    return [run | {"dtype": "float64"} for run in runs]


def _compiled() -> list[Run]:
    return [_run("compiled", {}, steps=2, compile="aot_eager", dtype="float64")]


def _on(engine: str, ranks: int, runs: list[Run], detail: str = "") -> list[Run]:
    place: dict[str, Any] = {"engine": engine} | ({"ranks": ranks} if ranks else {})
    return [
        run
        | {"name": f"{run['name']}/{detail or engine}", "engine": engine}
        | {"fields": run["fields"] | place}
        for run in runs
    ]


def _resumed(ranks: int) -> list[Run]:
    fields = {"accumulate": 2}
    runs = [_run("whole", fields, steps=6), _run("resumed", fields, **RESUMED)]
    return _on("ddp", ranks, runs, f"ddp{ranks}")


def _zero() -> list[Run]:
    runs: list[Run] = []
    for name, fields in ZERO.items():
        wanted = [_run("resumed", {}, **RESUMED)]
        wanted += _alike() if name in FULLY else [_run("ten", {}, steps=10)]
        if name == "zero1":
            wanted += [_run("fifty", {}, steps=50), _run("scheduled", SCHEDULED, steps=10)]
        for run in wanted:
            runs += _on("deepspeed", 2, [run | {"fields": run["fields"] | fields}], name)
    return runs


def gangs() -> dict[int, list[Run]]:
    exact, resumed = _run("exact", EXACT, steps=6), _run("exact resumed", EXACT, **RESUMED)
    found: dict[int, list[Run]] = {
        0: _on("single", 0, [*_alike(), *_exactly(), *_compiled(), exact, resumed]),
        2: _on("ddp", 2, [*_alike(), *_exactly(), *_compiled(), _run("whole", {}, steps=6)])
        + _on("ddp", 2, [_run("ten", {}, steps=10)])
        + _on("ddp", 2, [exact, resumed], "ddp2")
        + _resumed(2),
        3: _resumed(3),
        4: _on("ddp", 4, [exact], "ddp4"),
    }
    if find_spec("deepspeed"):
        found[2] += _zero()
    return found
