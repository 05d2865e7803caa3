"""What survives distillation: everything that the commands do, from Python.

    import distilsweep

    bank = distilsweep.Bank("shards-demo")  # a torch Dataset
    result = distilsweep.train("trial.yaml", bank="shards-demo")
    student = distilsweep.load_student("runs/trial/trials/0123456789abcdef")
    study = distilsweep.run("demo")  # a sweep; its tables
    study = distilsweep.load("runs/demo")  # of one that was run before

Nothing is imported before it is used. docs/python.md has a table of the names.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

PARTS = {
    "Bank": "shards.bank.dataset:Bank",
    "Request": "shards.building.request:Request",
    "build": "shards.building.build:build",
    "verify": "shards.verify:verify",
    "export_shards": "shards.export:export",
    "train": "trainers.runner:run",
    "load_student": "trainers.results.loaded:load",
    "probe": "trainers.probe:probe_all",
    "export": "trainers.export:export",
    "run": "sweep.run:run",
    "load": "sweep.analysis.frame:load",
    "report": "sweep.report:report",
    "verdicts": "sweep.report:verdicts",
    "status": "sweep.status:status",
    "stop": "sweep.stop:stop",
    "sync": "sweep.sync:sync",
    "check_cluster": "sweep.cluster:problems",
}


def __getattr__(name: str) -> Any:
    if name not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = PARTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
