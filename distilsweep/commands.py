"""The console script: `distilsweep run ...` is `python -m sweep.run ...`, and so on."""

from __future__ import annotations

import importlib
import sys

from distilsweep import __version__

COMMANDS = {
    **{name: f"shards.{name}" for name in ("build", "verify")},
    "export-shards": "shards.export",
    **{name: f"trainers.{name}" for name in ("trial", "probe", "export")},
    **{n: f"sweep.{n}" for n in ("run", "report", "status", "stop", "sync", "cluster")},
}


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
