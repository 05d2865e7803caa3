"""Parameters that a cloud's call for a machine takes, as a tree, and what is not among them.

Ray passes `node_config` on without looking into it, so a misspelt parameter is found when the first
worker fails to start, or never: GPUs that were to be spot ones are then billed on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shards.support.registry import closest

Tree = dict[str, "Tree"]


def tree(names: str) -> Tree:
    """`"A.B A.C D"` -> `{"A": {"B": {}, "C": {}}, "D": {}}`."""
    root: Tree = {}
    for name in names.split():
        branch = root
        for key in name.split("."):
            branch = branch.setdefault(key, {})
    return root


def unknown_parameters(value: Any, path: str, known: Tree, call: str) -> Iterator[str]:
    """One message for each key of `value`, at any depth, that `call` does not have.

    A parameter without others below it may hold anything.
    """
    if isinstance(value, list):
        for item in value:
            yield from unknown_parameters(item, path, known, call)
    elif isinstance(value, dict) and known:
        for key, inner in value.items():
            if key in known:
                yield from unknown_parameters(inner, f"{path}.{key}", known[key], call)
            else:
                yield f"{path}.{key} is no parameter of {call}; {closest(key, list(known))}"
