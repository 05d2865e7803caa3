"""YAML that means what it says: safe_load, minus everything YAML 1.1 reads in surprising ways.

Refused, each with its line: a key given twice or that is not a text, merge keys, aliases, tags
such as `!!python/object`, deep nesting, and plain scalars whose YAML 1.1 reading differs from
what was probably meant (`1e-3`, `no`, `010`, `12:30:00`, dates).
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import yaml

DEEPEST = 20
TAG = "tag:yaml.org,2002:"
OCTAL = re.compile(r"[-+]?0[0-9_]+")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def _surprise(kind: str, text: str) -> tuple[str, str] | None:
    """What YAML reads a plain scalar as, and what to write instead; None if there is no doubt."""
    if kind == "bool" and text.lower() not in ("true", "false"):
        return "true or false", "true or false, or quote the text"
    if kind == "timestamp":
        return "a date", "quotes around the text"
    if kind in ("int", "float") and SEXAGESIMAL.fullmatch(text):
        return "a number in base 60", "quotes around the text"
    if OCTAL.fullmatch(text):
        reading = "an octal number" if kind == "int" else "a text, not a number"
        return reading, "the number without the leading 0"
    if kind == "str":
        with contextlib.suppress(ValueError):
            float(text)
            return "a text, not a number", "1.0e-3 (dot and sign), .inf or .nan, or quote the text"
    return None


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML 1.1 would silently read as something else."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line}: aliases (*{event.anchor}) are refused; write it out")
        if event.tag is not None:
            tag = event.tag.replace(TAG, "!!")
            raise ValueError(f"line {line}: tags ({tag}) are refused; write the plain value")
        if self._depth >= DEEPEST:
            raise ValueError(f"line {line}: nested more than {DEEPEST} deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key must be a text, not a {key.id}")
            if key.tag == f"{TAG}merge":
                raise ValueError(f"line {line}: merge keys (<<) are refused; write the keys out")
            if key.value in lines:
                raise ValueError(f"key `{key.value}` is on line {lines[key.value]} and line {line}")
            if not isinstance(self.construct_object(key), str):
                kind = key.tag.removeprefix(TAG)
                raise ValueError(f"line {line}: key `{key.value}` is read as {kind}; quote it")
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        line = node.start_mark.line + 1
        if node.style is None and (found := _surprise(node.tag.removeprefix(TAG), node.value)):
            meaning, right = found
            raise ValueError(f"line {line}: YAML reads `{node.value}` as {meaning}; write {right}")
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # an integer of 5,000 digits
            raise ValueError(f"line {line}: {error}") from None


def parse(text: str, place: str) -> dict[str, Any]:
    """YAML text -> mapping. Raises: ValueError with place and line, one line of text."""
    try:
        value = yaml.load(text, Loader=StrictLoader)  # a SafeLoader: builds no objects
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{place}: line {line}: {error.reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{place}: {line}{problem}") from None
    except ValueError as error:
        raise ValueError(f"{place}: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise ValueError(f"{place}: line 1: expected `key: value` lines, found {found}")
    return value
