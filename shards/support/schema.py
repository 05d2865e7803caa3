"""Validated records: one pydantic base class, and its errors as one clear clause."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shards.support.registry import closest

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """An immutable record. A key that is not a field is an error, never silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validated(model: type[M], fields: Mapping[str, object], where: str = "") -> M:
    """`fields` as a `model`.

    Raises: ValueError of one clause (see `describe_error`), prefixed with `where`, for example the
    file that the fields were read from.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ValueError(prefix + describe_error(model, error)) from None


def parsed(model: type[M], content: bytes, where: str) -> M:
    """The JSON text `content`, read from the file `where`, as a `model`.

    Raises: ValueError, of one line, with the file, the fault, and that it is to be deleted.
    """
    try:
        return validated(model, json.loads(content))
    except ValueError as error:  # json's and UTF-8's errors are of this type as well
        raise ValueError(f"{where}: not readable ({error}); delete it") from None


def describe_error(model: type[BaseModel], error: ValidationError) -> str:
    """The first validation error as one clause: the field, what was found, what would be right."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key `{field}`; {closest(field, list(model.model_fields))}"
    if first["type"] == "missing":
        return f"{field}: missing"
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] == "value_error":  # our own validators name field and value themselves
        return message
    return f"{field}: {message}; got {repr(first['input'])[:80]}"
