"""What every command shares: one line on failure, a non-zero exit, no traceback for bad input."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shards.support.registry import closest

M = TypeVar("M", bound=BaseModel)


def command(function: Callable[[list[str]], int]) -> Callable[..., None]:
    """Wrap `main(argv) -> exit code`: ValueError and OSError become one line on stderr, code 2."""

    @functools.wraps(function)
    def run(argv: list[str] | None = None) -> None:
        try:
            code = function(sys.argv[1:] if argv is None else argv)
        except (ValueError, OSError) as error:
            text = " ".join(str(error).split())
            print(f"error: {text}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            print("interrupted; the same command again continues", file=sys.stderr)
            code = 130
        sys.exit(code)

    return run


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first validation error as one clause: field, what was found, what would be right."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key `{field}`; {closest(field, list(model.model_fields))}"
    if first["type"] == "missing":
        return f"{field}: missing"
    message = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])[:80]
    return message if first["type"] == "value_error" else f"{field}: {message}; got {found}"


def arguments_of(model: type[M], fields: dict[str, object], place: str = "") -> M:
    """Validate `fields` into `model`. Raises: ValueError, one clause, prefixed with `place`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        prefix = f"{place}: " if place else ""
        raise ValueError(prefix + explain(model, error)) from None
