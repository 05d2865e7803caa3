"""One trial: a config in, a trained student and its measurements out. No Ray, no MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.results.loaded import load as load_student
    from trainers.runner import run

__all__ = ["load_student", "run"]


def __getattr__(name: str) -> Any:
    # On demand: they import torch, which no command's --help should wait for.
    if name == "run":
        from trainers.runner import run

        return run
    if name == "load_student":
        from trainers.results.loaded import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
