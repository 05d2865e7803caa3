"""YAML 1.2 as plain values, with everything refused that could surprise a reader of the file.

Plain scalars mean what the core schema of YAML 1.2 says (https://yaml.org/spec/1.2.2/, 10.3.2):
`1e-3` is a number, and `no`, `12:30` and `2024-01-31` are text, which YAML 1.1 reads as a truth
value, a number in base 60 and a date.

Refused, each with its line: a key given twice or that is not text, anchors and aliases, tags such
as `!!python/object`, directives, several documents, and nesting of more than 20 levels. So a file
can neither build objects nor expand to many times its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.reader import ReaderError

MAX_DEPTH = 20
# The core schema: every plain scalar that matches none of these is text. ruamel.yaml's own rules
# are wider: they read `1_000` as a number and `2024-01-31` as a date, and `.5e3` as text.
NULL = re.compile(r"~|null|Null|NULL|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+")
OCTAL = re.compile(r"0o[0-7]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
NAN = re.compile(r"\.(nan|NaN|NAN)")


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """YAML text of `key: value` lines.

    Raises: ValueError of one line that names `where` (a file, say) and the line in it.
    """
    value = parse_value(text, where)
    if not isinstance(value, dict):
        found = "nothing" if value is None else _kind(value)
        raise ValueError(f"{where}: line 1: expected `key: value` lines, found {found}")
    return value


def parse_value(text: str, where: str) -> Any:
    """YAML text of any value; None where it is empty. Raises: as `parse_mapping`."""
    try:
        return _document(YAML(typ="safe", pure=True).parse(text))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{where}: line {line}: {error.reason}") from None
    except YAMLError as error:
        raise ValueError(f"{where}: {_problem(error)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from None


def _problem(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    return f"line {error.problem_mark.line + 1}: {' '.join(str(error.problem).split())}"


def _document(events: Iterator[Event]) -> Any:
    """The value of the one document that the parser's events describe."""
    value, documents = None, 0
    for event in events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _error(event, "a second document; a file holds one")
            if event.version or event.tags:
                raise _error(event, "directives (%YAML, %TAG) are refused; leave them out")
            value = _value(next(events), events, depth=1)
    return value


def _value(event: Event, events: Iterator[Event], depth: int) -> Any:
    """The value that begins with `event`; takes its other events from `events`."""
    if isinstance(event, AliasEvent):
        raise _error(event, f"aliases (*{event.anchor}) are refused; write the value out")
    assert isinstance(event, ScalarEvent | CollectionStartEvent)
    if event.anchor is not None:
        raise _error(event, f"anchors (&{event.anchor}) are refused; leave it out")
    if event.tag is not None:
        tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
        raise _error(event, f"tags ({tag}) are refused; write the plain value")
    if isinstance(event, ScalarEvent):
        plain = event.implicit[0]  # written without quotes, and not as a block of text
        return _scalar(event) if plain else event.value
    if depth > MAX_DEPTH:
        raise _error(event, f"nested more than {MAX_DEPTH} deep")
    if isinstance(event, MappingStartEvent):
        return _mapping(events, depth)
    values: list[Any] = []
    while not isinstance(item := next(events), SequenceEndEvent):
        values.append(_value(item, events, depth + 1))
    return values


def _mapping(events: Iterator[Event], depth: int) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    lines: dict[str, int] = {}
    while not isinstance(event := next(events), MappingEndEvent):
        if isinstance(event, CollectionStartEvent):
            raise _error(event, "a key must be text, not a list or a mapping")
        key = _value(event, events, depth)
        assert isinstance(event, ScalarEvent)  # _value refuses what else could stand here
        if not isinstance(key, str):
            raise _error(event, f"the key `{event.value}` is {_kind(key)}; quote it")
        if key in lines:
            raise ValueError(
                f"key `{key}` is on line {lines[key]} and again on line {_line(event)}"
            )
        lines[key] = _line(event)
        mapping[key] = _value(next(events), events, depth + 1)
    return mapping


def _scalar(event: ScalarEvent) -> bool | int | float | str | None:
    text = event.value
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    for pattern, base in ((INT, 10), (OCTAL, 8), (HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            try:
                return int(text, base)
            except ValueError:  # Python converts no more than 4,300 digits
                raise _error(event, f"an integer of {len(text):,} digits is refused") from None
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITY.fullmatch(text) or NAN.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _line(event: Event) -> int:
    return event.start_mark.line + 1


def _error(event: Event, problem: str) -> ValueError:
    return ValueError(f"line {_line(event)}: {problem}")


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value)) or {str: "text", list: "a list", dict: "a mapping"}[type(value)]
