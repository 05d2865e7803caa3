"""`FIELD=VALUE` of the command line, and a grid with such values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shards.support.yaml_reader import parse_value
from sweep.planning.fields import check_fields, check_value
from sweep.planning.grid import Grid, read_seeds


def parse_setting(option: str, setting: str) -> tuple[str, Any]:
    """(field, value) of a command line's `OPTION FIELD=VALUE`, where VALUE is YAML.

    Raises: ValueError, of one line, for an unknown field or a value that is not YAML.
    """
    source = f"{option} {setting}"
    field, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(f"{source}: write {option} FIELD=VALUE")
    check_fields([field], source)
    return field, parse_value(text, source)


def override(grid: Grid, settings: list[str], seeds: int | None) -> Grid:
    """`grid` with the values of the command line.

    `settings` are `FIELD=VALUE`, where VALUE is YAML: the field is fixed to it, in every part,
    and an axis or a range of that name is dropped. `seeds` N gives every combination the seeds 0
    to N-1.

    Raises: ValueError, of one line, for an unknown field, a value that is not YAML, or two values
        for one field.
    """
    fixed, axes, search = dict(grid.fixed), dict(grid.axes), grid.search
    given: dict[str, Any] = {}
    for setting in settings:
        field, value = parse_setting("--set", setting)
        if field in given and given[field] != value:
            raise ValueError(
                f"--set {setting}: {field} is set to `{given[field]}` as well; keep one, or make "
                "it an axis of the grid"
            )
        given[field] = value
        if field == "seed":
            raise ValueError(f"--set {setting}: seeds are given by --seeds N, or in a grid file")
        axes.pop(field, None)
        search = search.without(field) if search else None
        fixed[field] = value
        check_value(field, value, f"--set {setting}")
    chosen = grid.seeds if seeds is None else read_seeds(seeds, "--seeds")
    parts = tuple(override(part, settings, seeds) for part in grid.parts)
    return replace(grid, fixed=fixed, axes=axes, seeds=chosen, parts=parts, search=search)
