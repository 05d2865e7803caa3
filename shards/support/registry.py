"""`Table`: a dict of named choices; an unknown name is an error that lists the valid ones.

A table knows which of its entries come from a plugin, see `shards.support.plugins`.
"""

from __future__ import annotations

import difflib
import re
import weakref
from typing import Any, ClassVar, TypeVar

from shards.support.command import one_line

V = TypeVar("V")
# Similarity (difflib's ratio) from which a choice is suggested. Two letters that changed places in
# a word of three (`amr`, `arm`) have 0.67; `learnin_rate` has 0.56 with the unrelated `engine`.
CUTOFF = 0.65
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # all line ends are among these


def closest(name: str, choices: list[str]) -> str:
    """A clause that names the closest choice and lists all: ``did you mean `noise`? (...)``."""
    near = _abbreviated(name, choices) or difflib.get_close_matches(name, choices, 1, CUTOFF)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{hint}valid: {', '.join(sorted(choices))}"


def _abbreviated(name: str, choices: list[str]) -> list[str]:
    """Choices that abbreviate `name` (`lr` for `learning_rate`), or that it abbreviates."""
    if "_" in name:
        initials = "".join(word[:1] for word in name.split("_"))
        return [choice for choice in choices if choice == initials]
    return [c for c in choices if "_" in c and "".join(w[:1] for w in c.split("_")) == name]


class Table(dict[str, V]):
    """Name -> entry. ``Table("arm", {...})["nois"]`` raises ValueError with the closest name.

    Attributes:
        initial: the entries that it was made with.
        plugins: {name of an entry: MODULE@HASH of the plugin that registered it}.
        closed: whether plugins may not add to it.
        importing: whether a plugin is being imported, and may not replace what there is.
    """

    importing: ClassVar[bool] = False

    def __init__(self, kind: str, entries: dict[str, V], closed: bool = False) -> None:
        super().__init__(entries)
        self.kind, self.initial, self.closed = kind, entries, closed
        self.plugins: dict[str, str] = {}
        _TABLES.append(weakref.ref(self, _TABLES.remove))

    def __missing__(self, name: str) -> V:
        raise ValueError(f"unknown {self.kind} `{name}`; {closest(name, list(self))}")

    def __setitem__(self, name: str, entry: V) -> None:
        if Table.importing:
            self.check_new(name)
        super().__setitem__(name, entry)

    def check_new(self, name: str) -> None:
        """Raises: ValueError where a plugin may not register `name` here."""
        if self.closed:
            raise ValueError(f"{self.kind} `{name}`: plugins cannot add a {self.kind}")
        if name in self:
            owner = self.plugins.get(name, "").partition("@")[0]
            by = f"plugin `{owner}`" if owner else "the project" if name in self.initial else "it"
            raise ValueError(
                f"{self.kind} `{name}` is registered already, by {by}; choose another name"
            )


_TABLES: list[weakref.ref[Table[Any]]] = []


def tables() -> list[Table[Any]]:
    """All tables that there are now."""
    return [table for reference in tuple(_TABLES) if (table := reference()) is not None]


def plugins_of(*used: tuple[Table[Any], str]) -> tuple[str, ...]:
    """MODULE@HASH of the plugins that registered any of these (table, spec), sorted."""
    found = {table.plugins.get(split_spec(spec)[0], "") for table, spec in used}
    return tuple(sorted(found - {""}))


def split_spec(spec: str) -> tuple[str, str]:
    """`NAME[:ARGUMENT]` -> (NAME, ARGUMENT or ""). Only the first colon splits.

    Raises: ValueError for line breaks and other control characters, which no name or path needs
    and which would break up every message that shows the spec.
    """
    if CONTROL.search(spec):
        raise ValueError(f"`{one_line(spec)}`: control characters are refused; leave them out")
    name, _, argument = spec.partition(":")
    return name, argument


def check_spelling(kind: str, spec: str, own: str) -> None:
    """Refuse `digits:` for `digits`: banks record what was opened by its own spec, `own`.

    Raises: ValueError with both, where they differ.
    """
    if spec != own:
        raise ValueError(
            f"{kind} `{spec}`: what it opens has the spec `{own}`, by which banks record it; "
            f"expected `{own}`"
        )
