"""YAML that means what it says: safe_load, minus everything YAML 1.1 reads in surprising ways.

Refused, each with its line: a key given twice, aliases, tags such as `!!python/object`, and plain
scalars whose YAML 1.1 reading differs from what was probably meant (`1e-3`, `no`, `010`,
`12:30:00`, dates).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

SURPRISES = (
    (re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), "a text, not a number", "1.0e-3 (dot and sign)"),
    (re.compile(r"(?i)yes|no|on|off"), "true or false", "true or false, or quote the text"),
    (re.compile(r"[-+]?0[0-9_]+"), "an octal number", "the number without the leading 0"),
    (re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?"), "a number in base 60", "quotes around the text"),
    (re.compile(r"\d{4}-\d\d?-\d\d?"), "a date", "quotes around the text"),
)


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML 1.1 would silently read as something else."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            line = event.start_mark.line + 1
            raise ValueError(f"line {line}: aliases (*{event.anchor}) are refused; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ValueError(f"key `{key.value}` is on line {lines[key.value]} and line {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            for pattern, meaning, right in SURPRISES:
                if pattern.fullmatch(node.value):
                    raise ValueError(
                        f"line {node.start_mark.line + 1}: YAML reads `{node.value}` as {meaning}; "
                        f"write {right}"
                    )
        return super().construct_object(node, deep)


def parse(text: str, place: str) -> dict[str, Any]:
    """YAML text -> mapping. Errors: ValueError with place and line."""
    try:
        value = yaml.load(text, Loader=StrictLoader)  # a SafeLoader: builds no objects
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{place}: {line}{problem}") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    except RecursionError:
        raise ValueError(f"{place}: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected `key: value` lines, found {type(value).__name__}")
    return value
