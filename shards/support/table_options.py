"""Options of a table's entry, read from source without importing it; see `table_names` for why."""

from __future__ import annotations

import ast
from typing import Any

from shards.support.spec_options import Option
from shards.support.table_names import assigned, key_names

MAKER = "arm_entry"  # called as (name, summary, operations, *options, ...)
BEFORE = 3  # arguments before the options


def table_options(module: str, table: str, name: str) -> tuple[Option, ...] | None:
    """The options of an entry that `arm_entry` makes; None where the source is not so plain."""
    found = _entry(*assigned(module, table), name)
    if found is None:
        return None
    where, call = found
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != MAKER:
        return None
    options = [_option(where, argument) for argument in call.args[BEFORE:]]
    whole = [option for option in options if option is not None]
    return tuple(whole) if len(whole) == len(options) else None


def _entry(module: str, value: ast.AST | None, name: str) -> tuple[str, ast.AST] | None:
    """(its module, the value of `name`) in a dict, or a call that is given one."""
    if isinstance(value, ast.Call):  # Table("kind", {...})
        value = next((a for a in value.args if isinstance(a, ast.Dict)), None)
    if isinstance(value, ast.Name):
        return _entry(*assigned(module, value.id), name)
    if isinstance(value, ast.DictComp):
        return (module, value.value) if name in (key_names(module, value) or ()) else None
    if not isinstance(value, ast.Dict):
        return None
    for key, entry in zip(value.keys, value.values, strict=True):
        if key is None and (found := _entry(module, entry, name)):
            return found
        if isinstance(key, ast.Constant) and key.value == name:
            return module, entry
    return None


def _option(module: str, node: ast.AST | None) -> Option | None:
    """`Option(...)`, or a name that it is assigned to; None for anything else."""
    if isinstance(node, ast.Name):
        return _option(*assigned(module, node.id))
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != Option.__name__:
        return None
    try:
        given = [_constant(module, argument) for argument in node.args]
        named = {str(word.arg): _constant(module, word.value) for word in node.keywords}
    except ValueError:
        return None
    return Option(*given, **named)


def _constant(module: str, node: ast.AST | None) -> Any:
    """A literal, or a name that one is assigned to. Raises: ValueError for anything else."""
    if isinstance(node, ast.Name):
        return _constant(*assigned(module, node.id))
    if node is None:
        raise ValueError("not a literal")
    return ast.literal_eval(ast.unparse(node))
