"""Environment variables: limits that they set, and those of processes inside a block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

MOST_SECONDS = 1e9  # 32 years; the operating system's timers overflow at ten times as much


def seconds_of(variable: str, default: float) -> float:
    """A positive number of seconds from the environment. Raises: ValueError naming the variable."""
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(
            f"{variable}: `{text}` is not a number of seconds above 0 and at most {MOST_SECONDS:g}"
        )
    return seconds


@contextlib.contextmanager
def exported(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment has these values; afterwards those from before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
