"""What a data set does not use, printed as one line when it is opened.

A file that is passed over in silence looks like a file that was used: a published number then rests
on fewer images than its author believes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

Entry = tuple[str, int, str]  # kind, count, name of the first


class LeftOut:
    """Counts of what is not used, by kind, with the name of the first of each kind."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Add `count` things of a kind, of which `name` is the first."""
        self._count[kind] = self._count.get(kind, 0) + count
        self._first.setdefault(kind, name)

    def merge(self, entries: Iterable[Entry]) -> None:
        """Add what `entries` of another one holds."""
        for kind, count, first in entries:
            self.add(kind, first, count)

    @property
    def entries(self) -> list[Entry]:
        """(kind, count, name of the first), in the order in which the kinds were met."""
        return [(kind, count, self._first[kind]) for kind, count in self._count.items()]

    def line(self) -> str:
        """`KIND: COUNT (first NAME); ...`; empty where nothing was left out."""
        return "; ".join(
            f"{kind}: {count:,} (first `{readable(first)}`)" for kind, count, first in self.entries
        )

    def report(self, spec: str) -> None:
        """Print the line to stderr, once in a process however often the data set is opened."""
        if self._count:
            report_once(f"dataset {readable(spec)}: {self.line()}")


_reported: dict[str, None] = {}  # the lines that this process has printed, in order


def report_once(line: str) -> None:
    """Print a line to stderr, unless this process has printed it before."""
    if line not in _reported:
        _reported[line] = None
        print(line, file=sys.stderr, flush=True)


def reported() -> list[str]:
    """The lines that this process has printed, for a process that does not see its stderr."""
    return list(_reported)


def readable(name: str) -> str:
    """A name as it is, or with escapes where it has control characters or is not UTF-8."""
    return name if name.isprintable() else ascii(name.encode(errors="surrogateescape"))[2:-1]


def check_utf8(spec: str, path: str) -> None:
    """Refuse a path whose bytes are not UTF-8: keys and manifests are JSON, which cannot hold it.

    Python reads such a name with "surrogate escapes", which fail only when they are written.
    Raises: ValueError with the bytes of the name.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"dataset {readable(spec)}: the name `{readable(path)}` is not UTF-8; rename it"
        ) from None
