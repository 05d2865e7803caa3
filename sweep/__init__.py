"""Many trials: grids, the schedule, tracking and the report.

`sweep.run(grid)` runs a sweep, see `sweep.run.run`; `sweep.load` reads what trials have found, see
`sweep.analysis.frame`.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    # On demand, for it imports pandas and torch, which no command's --help should wait for.
    if name == "load":
        from sweep.analysis.frame import load

        return load
    if name == "run":  # the module of the command, which can be called
        return importlib.import_module("sweep.run")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
