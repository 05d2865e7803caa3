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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which do not read PARTS
    from shards.bank.dataset import Bank
    from shards.building.build import build
    from shards.building.request import Request
    from shards.export import export as export_shards
    from shards.verify import verify
    from sweep.analysis.frame import load
    from sweep.cluster import problems as check_cluster
    from sweep.report import report, verdicts
    from sweep.run import run
    from sweep.status import status
    from sweep.stop import stop
    from sweep.sync import sync
    from trainers.export import export
    from trainers.probe import probe_all as probe
    from trainers.results.loaded import load as load_student
    from trainers.runner import run as train

__all__ = [
    "Bank",
    "Request",
    "build",
    "check_cluster",
    "export",
    "export_shards",
    "load",
    "load_student",
    "probe",
    "report",
    "run",
    "status",
    "stop",
    "sync",
    "train",
    "verdicts",
    "verify",
]
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # what a notebook completes
