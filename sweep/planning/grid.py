"""Grid files: which trials a sweep runs.

A grid file is YAML. Its keys, all but one of `fixed` and `axes` optional:

    name: capacity          # of the run folder and the MLflow experiment (default: the file's name)
    fixed:                  # fields that all trials share; see docs/configuration.md for all fields
      dataset: digits
      teacher: embedded
      epochs: 6
      precision: auto       # fp32 or bf16 for all trials, whichever this machine trains faster in
    axes:                   # every combination of these values is a trial
      student: [width:1, width:2, width:4]
      arm: [clean, noise:0.1]
    seeds: 3                # each combination with seeds 0, 1, 2; or a list: [42, 123, 456]
    exclude:                # leave out trials that match every field of an entry, `seed` included
      - {student: width:4, arm: clean}
    first:                  # trials that match an entry start before the others
      - {student: width:1}
    distinct_views: true    # refuse trials of so many epochs that an augmented view is seen twice
    resources:              # of a trial: what each of its ranks occupies; changes no result
      cpus: 2               # CPU cores (default: the trial's `threads`)
      gpus: 0.5             # GPUs; below 1 several trials share one (default: --gpus-per-trial)
      placement: spread     # ranks on as many machines as possible; `pack` (the default) on as few
                            # as possible, `strict_pack` on one
      minutes: 30           # the training ends after so long (default: --time-limit)
    plugins: [mine]         # modules of your own that add objectives, arms, ... to the tables:
                            # mine.py or mine/ beside this file, else on sys.path
    search:                 # draws values from ranges instead of listing them; docs/search.md
      {by: random, trials: 20, metric: ridge/accuracy, mode: max,
       ranges: {lr: {log: [1.0e-4, 1.0e-2]}}}
    early_stopping:         # ends trials that do worse than others; docs/search.md
      {by: asha, metric: ridge/accuracy, mode: max}
    parts:                  # several sets of combinations; each adds to, or replaces, the above
      - fixed: {epochs: 0}
      - axes: {target: [pca:8, whitened]}

With `parts`, the trials are those of all parts together. A part may have `fixed`, `axes` and
`exclude`; a field in its `axes` replaces the same field above, fixed or not, and vice versa. Its
`resources` replace those above by name.

`read_grid` checks the keys, the names of fields, the types of their values and what they name, and
`sweep.planning.expand` every combination. Only the latter needs torch: a mistake in a grid file
should not take seconds to be reported.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.support.command import one_line
from shards.support.plugins import load_plugins
from shards.support.registry import closest
from shards.support.yaml_reader import parse_mapping
from sweep.grids import named_grids
from sweep.planning.early_stopping import EarlyStopping, read_early_stopping
from sweep.planning.fields import (
    AUTO,
    PRECISION,
    check_fields,
    check_trial_value,
    check_value,
    refuse_unknown,
)
from sweep.planning.search import Search, read_search
from trainers.config.alone import check_without_tables
from trainers.config.schema import PLUGINS, TrialConfig

LIMIT = 10_000  # trials; more is taken for a mistake
CHECKED = 100  # combinations of a part that are checked before all are, which needs torch
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEYS = (
    *("name", "fixed", "axes", "seeds", "exclude", "first", "distinct_views", "resources"),
    *("search", "early_stopping", "parts", PLUGINS),
)
SECTIONS: dict[str, type] = {"fixed": dict, "axes": dict, "exclude": list}
PLACEMENTS = ("pack", "spread", "strict_pack")
RESOURCES = ("cpus", "gpus", "placement", "minutes")
YAML_NAMES = {dict: "`field: value` lines", list: "a list"}


@dataclass(frozen=True)
class Grid:
    """A grid as written: combinations are not formed yet, and values not yet validated.

    Attributes:
        name: of the run folder and the MLflow experiment.
        fixed: {field: value} that all trials share.
        axes: {field: values}, of which every combination is a trial.
        seeds: of every combination.
        exclude: trials left out: those that match all fields of an entry.
        first: trials that match all fields of an entry start first, in the order of entries.
        source: where the grid was read, for error messages.
        distinct_views: whether a trial that would see an augmented view twice is refused.
        resources: {cpus, gpus, placement: value} of each rank of a trial, and its `minutes`, where
            given.
        search: what is drawn from ranges; None: nothing is.
        draws: values of the fields that are searched for; None: those that the search begins with.
        early_stopping: the rule by which trials are stopped early; None: none are.
        parts: if there are any, the trials are theirs, and `fixed` and `axes` are in each already.
    """

    name: str
    fixed: dict[str, Any]
    axes: dict[str, list[Any]]
    seeds: list[int]
    exclude: list[dict[str, Any]]
    source: str
    distinct_views: bool = False
    parts: tuple[Grid, ...] = ()
    first: tuple[dict[str, Any], ...] = ()
    resources: dict[str, Any] = dataclasses.field(default_factory=dict)
    search: Search | None = None
    draws: tuple[dict[str, Any], ...] | None = None
    early_stopping: EarlyStopping | None = None


def load_grid(name: str) -> Grid:
    """The grid of that name, or in the YAML file at that path.

    Raises: ValueError, of one line, where there is none or it cannot be read.
    """
    known = named_grids()
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise ValueError(f"grid: no file `{name}`; named grids: {', '.join(known)}")
        return read_grid(Path(name).read_text(), name, Path(name).stem, Path(name).parent)
    if name not in known:
        raise ValueError(f"unknown grid `{name}`; {closest(name, list(known))}, or a YAML file")
    return read_grid(known[name], f"grid {name}", name)


def read_grid(text: str, source: str, name: str, beside: Path | None = None) -> Grid:
    """The grid in YAML `text`, called `name` unless it has a name itself.

    Its plugins are imported; they are searched in the folder `beside`, then on sys.path.
    Raises: ValueError, of one line, with `source`, the key and what would be right.
    """
    try:
        return _read(text, source, name, beside)
    except ValueError as error:  # a quoted key or value may hold line breaks
        raise ValueError(one_line(str(error))) from None


def _read(text: str, source: str, name: str, beside: Path | None) -> Grid:
    raw = parse_mapping(text, source)
    refuse_unknown(raw, KEYS, "key", source)
    plugins = _plugins(raw, source, beside)  # they may add the fields that follow
    title = _name(raw.get("name", name), source)
    fixed, axes, exclude = _sections(raw, source)
    grid = Grid(
        name=title,
        fixed=fixed | plugins,
        axes=axes,
        exclude=exclude,
        source=source,
        distinct_views=_distinct_views(raw.get("distinct_views", False), source),
        seeds=read_seeds(raw.get("seeds", 1), source),
        first=tuple(_entries(raw.get("first") or [], "first", source)),
        early_stopping=read_early_stopping(raw.get("early_stopping"), source),
        search=_search(raw.get("search"), source),
        resources=_resources(raw, source),
    )
    grid = replace(grid, parts=_parts(grid, raw.get("parts") or []))
    for place, field, value in listed_values(grid):
        check_trial_value(field, value, place)
    return grid


def _name(value: Any, source: str) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{source}: name: `{value}`; use letters, digits, `.`, `_` and `-`")
    return value


def _distinct_views(value: Any, source: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{source}: distinct_views: expected true or false, found `{value}`")
    return value


def _search(raw: Any, source: str) -> Search | None:
    search = read_search(raw, source)
    check_fields(search.ranges if search else (), f"{source}: search.ranges")
    return search


def _parts(grid: Grid, parts: Any) -> tuple[Grid, ...]:
    """The grids of a grid's parts; checks that Optuna has one combination to search."""
    if not isinstance(parts, list):
        raise ValueError(f"{grid.source}: parts: expected a list, found `{parts}`")
    several = parts or any(len(values) > 1 for values in grid.axes.values())
    if grid.search is not None and grid.search.by == "optuna" and several:
        raise ValueError(
            f"{grid.source}: search: optuna looks for the best draw of one combination, here are "
            "several; keep one value of each axis and no parts, or write `by: random`"
        )
    searched = grid.search.ranges if grid.search and grid.search.by == "optuna" else {}
    if any(searched.keys() & entry.keys() for entry in grid.exclude):
        raise ValueError(
            f"{grid.source}: exclude: optuna proposes values whatever is excluded; choose ranges "
            "without them, or write `by: random`"
        )
    return tuple(_part(grid, raw, number) for number, raw in enumerate(parts, 1))


def _plugins(raw: dict[str, Any], source: str, beside: Path | None) -> dict[str, Any]:
    """{plugins: MODULE@HASH of those of the grid}, which every combination is given."""
    if PLUGINS not in raw:
        return {}
    try:
        return {PLUGINS: list(load_plugins(raw[PLUGINS], beside))}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _sections(raw: dict[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """`fixed`, `axes` and `exclude` of a grid or a part; values in `exclude` are not checked."""
    for key, kind in SECTIONS.items():
        value = raw.get(key) or kind()
        if not isinstance(value, kind):
            raise ValueError(f"{source}: {key}: expected {YAML_NAMES[kind]}, found `{value}`")
    fixed, axes, exclude = (raw.get(key) or kind() for key, kind in SECTIONS.items())
    for field, values in axes.items():
        if not isinstance(values, list) or not values:
            what = "0 trials; " if values == [] else ""
            raise ValueError(
                f"{source}: axes.{field}: {what}expected a list with at least one value, "
                f"found `{values}`"
            )
        if field in fixed:
            raise ValueError(f"{source}: `{field}` is both fixed and an axis; keep one")
    if "seed" in fixed or "seed" in axes:
        raise ValueError(f"{source}: `seed` is given by `seeds`: a count, or a list")
    for fields in (fixed, axes, *_entries(exclude, "exclude", source)):
        check_fields(fields, source)
    for field, value in fixed.items():
        check_value(field, value, source)
    for field, values in axes.items():
        for value in values:
            check_value(field, value, source)
    if AUTO in axes.get(PRECISION, ()):
        raise ValueError(f"{source}: axes.{PRECISION}: `{AUTO}` is one choice for all; fix it")
    return fixed, axes, exclude


def _entries(value: Any, key: str, source: str) -> list[dict[str, Any]]:
    """The list under `key`, of mappings from fields to values."""
    if not isinstance(value, list):
        raise ValueError(f"{source}: {key}: expected a list, found `{value}`")
    for entry in value:
        if not isinstance(entry, dict) or not entry:
            raise ValueError(f"{source}: {key}: expected {{field: value, ...}}, found `{entry}`")
        check_fields(entry, source)
    return value


def listed_values(grid: Grid) -> Iterator[tuple[str, str, Any]]:
    """(place, field, value) of `exclude`, `first` and `search.ranges`, those of parts as well.

    No trial need have such a value, so each is to be checked by itself.
    """
    for part in (grid, *grid.parts):
        for key, entries in (("exclude", part.exclude), ("first", part.first)):
            for entry in entries:
                for field, value in entry.items():
                    yield f"{part.source}: {key}", field, value
    for field, value in grid.search.outermost() if grid.search else ():
        yield f"{grid.source}: search.ranges", field, value


def check_combinations(grid: Grid) -> None:
    """Check the first combinations of each part, as far as no table is needed for it.

    Nothing is checked beside `exclude` and `search`, which decide what is a trial.
    Raises: ValueError, of one line, for fields that contradict each other.
    """
    for part in grid.parts or (grid,):
        if part.exclude or part.search:
            continue
        for values in itertools.islice(itertools.product(*part.axes.values()), CHECKED):
            given = part.fixed | dict(zip(part.axes, values, strict=True))
            fields = {n: v for n, v in given.items() if n in TrialConfig.model_fields}
            if fields.get(PRECISION) == AUTO:
                del fields[PRECISION]
            try:
                check_without_tables(fields)
            except ValueError as error:
                raise ValueError(f"{part.source}: {one_line(str(error))}") from None


def values_of(grid: Grid, field: str) -> list[Any]:
    """The values that the grid gives the field, some of them perhaps more than once."""
    parts = grid.parts or (grid,)
    fixed = [part.fixed[field] for part in parts if field in part.fixed]
    return fixed + [value for part in parts for value in part.axes.get(field, ())]


def is_auto(grid: Grid) -> bool:
    """Whether its precision is chosen by measuring, see sweep.planning.precision."""
    return AUTO in values_of(grid, PRECISION)


def most_trials(grid: Grid) -> int:
    """How many trials the grid has at most: some may be excluded, or be the same as others."""
    return sum(
        len(part.seeds)
        * (part.search.trials if part.search else 1)
        * math.prod(len(values) for values in part.axes.values())
        for part in grid.parts or (grid,)
    )


def _part(whole: Grid, raw: Any, number: int) -> Grid:
    """The grid of one part: its own fixed values and axes over those of the whole."""
    source = f"{whole.source}: part {number}"
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{source}: expected {{fixed: ..., axes: ...}}, found `{raw}`")
    refuse_unknown(raw, (*SECTIONS, "resources"), "key", source)
    fixed, axes, exclude = _sections(raw, source)
    inherited = {field: value for field, value in whole.fixed.items() if field not in axes}
    crossed = {field: values for field, values in whole.axes.items() if field not in fixed}
    return replace(
        whole,
        fixed=inherited | fixed,
        axes=crossed | axes,
        exclude=whole.exclude + exclude,
        source=source,
        resources=whole.resources | _resources(raw, source),
    )


def _resources(raw: dict[str, Any], source: str) -> dict[str, Any]:
    """The checked `resources` of a grid or a part."""
    found = raw.get("resources") or {}
    if not isinstance(found, dict):
        raise ValueError(f"{source}: resources: expected `name: value` lines, found `{found}`")
    refuse_unknown(found, RESOURCES, "resource", source)
    for name, value in found.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number = is_number and 0 <= value < float("inf")
        if name == "placement" and value not in PLACEMENTS:
            choices = ", ".join(PLACEMENTS)
            raise ValueError(f"{source}: resources.placement: `{value}`; choose {choices}")
        if name == "gpus" and not (number and (0 <= float(value) <= 1 or float(value) % 1 == 0)):
            raise ValueError(
                f"{source}: resources.gpus: `{value}`; write a number from 0 to 1, or a whole one"
            )
        if name in ("cpus", "minutes") and not (number and value):
            raise ValueError(f"{source}: resources.{name}: `{value}`; write a number above 0")
    return dict(found)


def read_seeds(value: Any, source: str) -> list[int]:
    """Seeds from a count, or from a list. Raises: ValueError, of one line, for anything else."""
    if isinstance(value, list):
        whole = all(type(seed) is int and seed >= 0 for seed in value)
        if whole and value and len(set(value)) == len(value):
            return list(value)
    elif type(value) is int and value > LIMIT:
        raise ValueError(f"{source}: seeds: {value:,} trials > limit of {LIMIT:,}")
    elif type(value) is int and value >= 1:
        return list(range(value))
    raise ValueError(
        f"{source}: seeds: expected a count of at least 1, or a list of distinct seeds; "
        f"found {value!r}"
    )
