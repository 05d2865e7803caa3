"""Names of a table's entries and of declared fields, read from source without importing it.

The modules of most tables import torch, which takes seconds. A misspelt name should not take that
long to be refused, and each entry should still be written once: so names are taken from the
table's own source. What a source does not say in so many words is None, and the caller has to
import the module.
"""

from __future__ import annotations

import ast
import functools
import sys
from importlib.util import find_spec
from pathlib import Path

Names = tuple[str, ...]


def table_names(module: str, table: str) -> Names | None:
    """Names of the entries of a `Table`, or of the keys of a dict; None where they are not plain.

    Of a module that was imported they are those of the table itself, with a plugin's.
    """
    if module in sys.modules:
        return tuple(getattr(sys.modules[module], table))
    return _value_names(module, table)


def field_names(module: str, base: str) -> Names | None:
    """Names of the annotated fields of the classes that a module derives from `base`."""
    tree = _parsed(module)
    if tree is None:
        return None
    return tuple(
        line.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and base in [getattr(b, "id", "") for b in node.bases]
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )


@functools.cache
def _parsed(module: str) -> ast.Module | None:
    """The syntax tree of a module of an installed package; nothing is imported to find it."""
    package, *names = module.split(".")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, *names)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return ast.parse(file.read_bytes())
    return None


def assigned(module: str, name: str) -> tuple[str, ast.AST | None]:
    """(module, what it assigns to `name`): this module, or the one that `name` is imported from."""
    tree = _parsed(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return assigned(node.module, alias.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == name for one in targets):
            return module, getattr(node, "value", None)
    return module, None


def _value_names(module: str, name: str) -> Names | None:
    """Names in the value that is assigned to `name`."""
    module, value = assigned(module, name)
    if isinstance(value, ast.Call):  # Table("kind", {...})
        value = next((a for a in value.args if isinstance(a, ast.Dict)), None)
    return key_names(module, value)


def key_names(module: str, value: ast.AST | None) -> Names | None:
    """Keys of a literal dict whose parts are names, other such dicts, or made from the keys of one.

    None for anything else.
    """
    if isinstance(value, ast.Name):
        return _value_names(module, value.id)
    if isinstance(value, ast.DictComp):  # {name: ... for name in OTHER}
        over = value.generators[0]
        plain = len(value.generators) == 1 and not over.ifs
        same = ast.unparse(value.key) == ast.unparse(over.target)
        return key_names(module, over.iter) if plain and same else None
    if not isinstance(value, ast.Dict):
        return None
    names: list[str] = []
    for key, entry in zip(value.keys, value.values, strict=True):
        if key is None:
            inner = key_names(module, entry)
            if inner is None:
                return None
            names += inner
        elif isinstance(key, ast.Constant) and isinstance(key.value, str):
            names.append(key.value)
        else:
            return None
    return tuple(dict.fromkeys(names))
