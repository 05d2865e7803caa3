"""`Table`: a plain dict of named choices whose miss says what would have been right."""

from __future__ import annotations

import difflib
from typing import TypeVar

V = TypeVar("V")


def closest(name: str, choices: list[str]) -> str:
    """A clause that names the closest choice and lists all: ``did you mean `noise`? (...)``."""
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{hint}valid: {', '.join(sorted(choices))}"


class Table(dict[str, V]):
    """Name -> entry. ``Table("arm", {...})["nois"]`` raises ValueError naming the near misses."""

    def __init__(self, kind: str, entries: dict[str, V]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> V:
        raise ValueError(f"unknown {self.kind} `{name}`; {closest(name, list(self))}")


def split_spec(spec: str) -> tuple[str, str]:
    """`NAME[:ARGUMENT]` -> (NAME, ARGUMENT or ""). Only the first colon splits."""
    name, _, argument = spec.partition(":")
    return name, argument
