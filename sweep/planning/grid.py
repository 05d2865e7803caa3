"""Grid files: which trials a sweep runs.

A grid file is YAML. Its keys, all but one of `fixed` and `axes` optional:

    name: capacity          # of the run folder and the MLflow experiment (default: the file's name)
    fixed:                  # fields that all trials share; see docs/configuration.md for all fields
      dataset: digits
      teacher: embedded
      epochs: 6
    axes:                   # every combination of these values is a trial
      student: [width:1, width:2, width:4]
      arm: [clean, noise:0.1]
    seeds: 3                # each combination with seeds 0, 1, 2; or a list: [42, 123, 456]
    exclude:                # leave out combinations that match every field of an entry
      - {student: width:4, arm: clean}
    first:                  # trials that match an entry start before the others
      - {student: width:1}
    distinct_views: true    # refuse trials of so many epochs that an augmented view is seen twice
    resources:              # what each rank of a trial occupies; changes no result
      cpus: 2               # CPU cores (default: the trial's `threads`)
      gpus: 0.5             # GPUs; below 1 several trials share one (default: --gpus-per-trial)
      placement: spread     # ranks on as many machines as possible; `pack` (the default) on as few
                            # as possible, `strict_pack` on one
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
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.support.command import one_line
from shards.support.plugins import load_plugins
from shards.support.registry import closest, split_spec
from shards.support.schema import validated
from shards.support.table_names import field_names, table_names
from shards.support.yaml_reader import parse_mapping, parse_value
from sweep.grids import named_grids
from sweep.planning.early_stopping import EarlyStopping, read_early_stopping
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
OBJECTIVES = "trainers.objectives"
ARMS = ("shards.arms", "ARMS"), ("shards.arms.groups", "GROUPS")
# {field: (what its values name, tables that hold the names)}
NAMED: dict[str, tuple[Any, ...]] = {
    "dataset": ("dataset", ("shards.datasets", "DATASETS")),
    "teacher": ("teacher", ("shards.teachers", "TEACHERS")),
    "student": ("student", ("trainers.students", "STUDENTS")),
    "arm": ("arm", ARMS[0]),
    "test_arms": ("arm", *ARMS),
    "adapt_arms": ("arm", *ARMS),
    "objective": ("objective", (OBJECTIVES, "OBJECTIVES")),
    "target": ("target", ("trainers.objectives.targets", "TARGETS")),
    "optimizer": ("optimizer", ("trainers.training.optim", "OPTIMIZERS")),
    "engine": ("engine", ("trainers.engines", "ENGINES")),
    "probes": ("probe", ("trainers.probes", "PROBES")),
}
RESOURCES = ("cpus", "gpus", "placement")
YAML_NAMES = {dict: "`field: value` lines", list: "a list"}


@dataclass(frozen=True)
class Grid:
    """A grid as written: combinations are not formed yet, and values not yet validated.

    Attributes:
        name: of the run folder and the MLflow experiment.
        fixed: {field: value} that all trials share.
        axes: {field: values}, of which every combination is a trial.
        seeds: of every combination.
        exclude: combinations left out: those that match all fields of an entry.
        first: trials that match all fields of an entry start first, in the order of entries.
        source: where the grid was read, for error messages.
        distinct_views: whether a trial that would see an augmented view twice is refused.
        resources: {cpus, gpus, placement: value} of each rank of a trial, where given.
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
    _refuse_unknown(raw, KEYS, "key", source)
    plugins = _plugins(raw, source, beside)  # they may add the fields that follow
    title = raw.get("name", name)
    if not isinstance(title, str) or not NAME.fullmatch(title):
        raise ValueError(f"{source}: name: `{title}`; use letters, digits, `.`, `_` and `-`")
    fixed, axes, exclude = _sections(raw, source)
    distinct = raw.get("distinct_views", False)
    if not isinstance(distinct, bool):
        raise ValueError(f"{source}: distinct_views: expected true or false, found `{distinct}`")
    seeds = _seeds(raw.get("seeds", 1), source)
    first = tuple(_entries(raw.get("first") or [], "first", source))
    grid = Grid(title, fixed, axes, seeds, exclude, source, distinct, first=first)
    stopping = read_early_stopping(raw.get("early_stopping"), source)
    search = read_search(raw.get("search"), source)
    check_fields(search.ranges if search else (), f"{source}: search.ranges")
    grid = replace(grid, fixed=fixed | plugins, resources=_resources(raw, source))
    grid = replace(grid, search=search, early_stopping=stopping)
    parts = raw.get("parts") or []
    if not isinstance(parts, list):
        raise ValueError(f"{source}: parts: expected a list, found `{parts}`")
    several = parts or any(len(values) > 1 for values in axes.values())
    if search is not None and search.by == "optuna" and several:
        raise ValueError(
            f"{source}: search: optuna looks for the best draw of one combination, here are "
            "several; keep one value of each axis and no parts, or write `by: random`"
        )
    return replace(grid, parts=tuple(_part(grid, raw, i) for i, raw in enumerate(parts, 1)))


def _plugins(raw: dict[str, Any], source: str, beside: Path | None) -> dict[str, Any]:
    """{plugins: MODULE@HASH of those of the grid}, which every combination is given."""
    if PLUGINS not in raw:
        return {}
    try:
        return {PLUGINS: list(load_plugins(raw[PLUGINS], beside))}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _refuse_unknown(names: Any, known: Any, kind: str, source: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"{source}: unknown {kind} `{name}`; {closest(str(name), list(known))}"
            )


def _sections(raw: dict[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """`fixed`, `axes` and `exclude` of a grid or a part, checked but for the values of fields."""
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
        _check_value(field, value, source)
    for field, values in axes.items():
        for value in values:
            _check_value(field, value, source)
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


def check_fields(names: Iterable[Any], source: str) -> None:
    """Check names of a trial's fields. Raises: ValueError, of one line, with the closest name."""
    if PLUGINS in (names := list(names)):
        raise ValueError(f"{source}: `{PLUGINS}` is a key of the grid file, beside `fixed`")
    own = [name for name in TrialConfig.model_fields if name != "objective_fields"]
    if all(name in own for name in names):
        return
    _refuse_unknown(names, (*own, *_objective_fields()), "field", source)


def _objective_fields() -> Iterable[str]:
    """Fields that objectives add. Their modules need torch, so it is their source that is read."""
    if OBJECTIVES not in sys.modules:
        found = field_names(OBJECTIVES, "ObjectiveFields")
        if found is not None:
            return found
    from trainers.canonical import trial_fields

    return trial_fields()


def _check_value(field: str, value: Any, source: str) -> None:
    """Check the type of one value, as far as it does not depend on other fields."""
    if field in TrialConfig.model_fields:
        names = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
        typed = validated(TrialConfig, names | {field: value}, source)
        if field in NAMED:
            _check_names(field, getattr(typed, field), source)


def _check_names(field: str, value: str | tuple[str, ...], source: str) -> None:
    """Check that tables have the names in a field's value, as far as their sources tell."""
    kind, *tables = NAMED[field]
    known = [table_names(module, table) for module, table in tables]
    if None in known or (kind, value) == ("objective", "none"):
        return
    choices = [name for names in known for name in names or ()]
    specs: Iterable[str] = [value] if isinstance(value, str) else value
    if kind == "objective":
        specs = [term for spec in specs for term in spec.split("+")]
    for spec in specs:
        name = split_spec(spec)[0]
        if name not in choices:
            raise ValueError(f"{source}: unknown {kind} `{name}`; {closest(name, choices)}")


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
            try:
                check_without_tables(fields)
            except ValueError as error:
                raise ValueError(f"{part.source}: {one_line(str(error))}") from None


def _part(whole: Grid, raw: Any, number: int) -> Grid:
    """The grid of one part: its own fixed values and axes over those of the whole."""
    source = f"{whole.source}: part {number}"
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{source}: expected {{fixed: ..., axes: ...}}, found `{raw}`")
    _refuse_unknown(raw, (*SECTIONS, "resources"), "key", source)
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
    _refuse_unknown(found, RESOURCES, "resource", source)
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if name == "placement" and value not in PLACEMENTS:
            choices = ", ".join(PLACEMENTS)
            raise ValueError(f"{source}: resources.placement: `{value}`; choose {choices}")
        if name == "gpus" and not (number and (0 <= float(value) <= 1 or float(value) % 1 == 0)):
            raise ValueError(
                f"{source}: resources.gpus: `{value}`; write a number from 0 to 1, or a whole one"
            )
        if name == "cpus" and not (number and value):
            raise ValueError(f"{source}: resources.cpus: `{value}`; write a number above 0")
    return dict(found)


def _seeds(value: Any, source: str) -> list[int]:
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
        _check_value(field, value, f"--set {setting}")
    chosen = grid.seeds if seeds is None else _seeds(seeds, "--seeds")
    parts = tuple(override(part, settings, seeds) for part in grid.parts)
    return replace(grid, fixed=fixed, axes=axes, seeds=chosen, parts=parts, search=search)
