"""Which names of metrics are valid. MLflow refuses others, and with them a whole batch of values.

The rule is MLflow's on Linux and macOS.
"""

from __future__ import annotations

import posixpath
import re

LONGEST = 240  # MLflow takes 250 characters; a probe's names get `test/` or `teacher/` in front
ALLOWED = "letters, digits, `_`, `-`, `.`, `:`, `/` and spaces"


def metric_name_error(name: str) -> str | None:
    """What is wrong with the name of a metric, and what would be right; None where it is valid."""
    if not re.fullmatch(r"[\w.:/ -]+", name):
        wrong = "".join(sorted(set(re.sub(r"[\w.:/ -]", "", name))))
        return f"has {wrong!r}; allowed are {ALLOWED}" if name else "is empty"
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        return "must not begin or end with `/` or have `//`, `.` or `..` between two `/`"
    if len(name) > LONGEST:
        return f"has {len(name)} characters; at most {LONGEST} are allowed"
    return None
