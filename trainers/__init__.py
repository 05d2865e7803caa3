"""One trial: a config in, a trained student and its measurements out. No Ray, no MLflow."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # On demand: it imports torch, which no command's --help should wait for.
    if name == "run":
        from trainers.trial import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
