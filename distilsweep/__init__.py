"""What survives distillation: one import for use from Python, and one command for all commands.

    import distilsweep

    bank = distilsweep.Bank("shards-demo")  # a torch Dataset
    result = distilsweep.train("trial.yaml", bank="shards-demo")
    student = distilsweep.load_student("runs/trial/trials/0123456789abcdef")
    study = distilsweep.run("demo")  # a sweep; its tables
    study = distilsweep.load("runs/demo")  # of one that was run before

`distilsweep run --grid demo` is `python -m sweep.run --grid demo`, and so for all commands.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

PARTS = {
    "Bank": "shards.bank.dataset:Bank",
    "train": "trainers.runner:run",
    "load_student": "trainers.results.loaded:load",
    "run": "sweep.run:run",
    "load": "sweep.analysis.frame:load",
}
COMMANDS = {
    **{name: f"shards.{name}" for name in ("build", "verify")},
    "export-shards": "shards.export",
    **{name: f"trainers.{name}" for name in ("trial", "probe", "export")},
    **{n: f"sweep.{n}" for n in ("run", "report", "status", "stop", "sync", "cluster")},
}


def __getattr__(name: str) -> Any:
    if name not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = PARTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def program() -> None:
    """The console script: `distilsweep COMMAND ...`. It ends the process."""
    from shards.support.command import as_program

    as_program(main)


def main() -> None:
    """Run the command that `sys.argv` names."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if chosen in COMMANDS:
        importlib.import_module(COMMANDS[chosen]).main(sys.argv[2:])
    elif chosen == "--version":
        print(__version__)
    elif chosen in ("-h", "--help"):
        for name, module in COMMANDS.items():
            print(f"distilsweep {name:<14}python -m {module}")
    else:
        print(f"error: unknown command `{chosen}`; known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
