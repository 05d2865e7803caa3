"""YAML -> list of TrialConfig, strictly.

name: demo                      # of the run folder and the MLflow experiment
fixed: {dataset: digits, teacher: embedded, epochs: 6}      # any field of TrialConfig
axes:
  student: [width:1, width:2, width:4]
  arm: [clean, noise:0.1]
seeds: 3                        # 0, 1, 2; or a list
exclude:                        # combinations left out
  - {student: width:4, arm: clean}
distinct_views: true            # refused where a sample would be shown a drawn view twice
parts:                          # instead of one product, several: each adds to what is above
  - fixed: {epochs: 0}
  - axes: {target: [pca:8, whitened]}
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from shards.arms import make_arm
from shards.support.registry import closest
from shards.support.yaml_reader import parse_mapping, parse_value
from sweep.planning.sizes import train_samples
from trainers.config.durations import epochs_shown
from trainers.config.schema import TrialConfig, make_config

LIMIT = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEYS = ("name", "fixed", "axes", "seeds", "exclude", "parts", "distinct_views")
PART_KEYS = ("fixed", "axes", "exclude")
SECTIONS: dict[str, type] = {"fixed": dict, "axes": dict, "exclude": list}


@dataclass(frozen=True)
class Grid:
    """A grid as written: not yet multiplied out."""

    name: str
    fixed: dict[str, Any]
    axes: dict[str, list[Any]]
    seeds: list[int]
    exclude: list[dict[str, Any]]
    place: str
    distinct_views: bool = False
    parts: tuple[Grid, ...] = ()  # whose trials are the grid's, where there are any


def named_grids() -> dict[str, str]:
    """The grids that ship with the project: {name: YAML text}."""
    folder = resources.files("sweep.grids")
    files = (f for f in folder.iterdir() if f.name.endswith(".yaml"))
    return {f.name.removesuffix(".yaml"): f.read_text() for f in files}


def load_grid(name: str) -> Grid:
    """A grid's name, or a YAML file's path. Raises: ValueError, one line."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise ValueError(f"grid: no file `{name}`; named grids: {', '.join(named_grids())}")
        return read_grid(Path(name).read_text(), name, Path(name).stem)
    known = named_grids()
    if name not in known:
        raise ValueError(f"unknown grid `{name}`; {closest(name, list(known))}, or a YAML file")
    return read_grid(known[name], f"grid {name}", name)


def read_grid(text: str, place: str, name: str) -> Grid:
    """YAML text -> Grid. Raises: ValueError naming the place and the key."""
    raw = parse_mapping(text, place)
    for key in raw:
        if key not in KEYS:
            raise ValueError(f"{place}: unknown key `{key}`; {closest(str(key), list(KEYS))}")
    title = raw.get("name", name)
    if not isinstance(title, str) or not NAME.fullmatch(title):
        raise ValueError(f"{place}: name: `{title}`; use letters, digits, `.`, `_` and `-`")
    fixed, axes, exclude = _sections(raw, place)
    distinct = raw.get("distinct_views", False)
    if not isinstance(distinct, bool):
        raise ValueError(f"{place}: distinct_views: expected true or false, found `{distinct}`")
    seeds = _seeds(raw.get("seeds", 1), place)
    grid = Grid(title, fixed, axes, seeds, exclude, place, distinct)
    parts = raw.get("parts") or []
    if not isinstance(parts, list):
        raise ValueError(f"{place}: parts: expected a list, found `{parts}`")
    return replace(grid, parts=tuple(_part(grid, raw, i) for i, raw in enumerate(parts, 1)))


def _sections(raw: dict[str, Any], place: str) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    fixed, axes, exclude = (raw.get(key) or kind() for key, kind in SECTIONS.items())
    for (key, kind), value in zip(SECTIONS.items(), (fixed, axes, exclude), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{place}: {key}: expected a {kind.__name__}, found `{value}`")
    _check(fixed, axes, exclude, place)
    return fixed, axes, exclude


def _part(whole: Grid, raw: Any, number: int) -> Grid:
    """The grid of one part: its own fixed values and axes, over those of the whole."""
    place = f"{whole.place}: part {number}"
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{place}: expected {{fixed: ..., axes: ...}}, found `{raw}`")
    for key in raw:
        if key not in PART_KEYS:
            raise ValueError(f"{place}: unknown key `{key}`; {closest(str(key), list(PART_KEYS))}")
    fixed, axes, exclude = _sections(raw, place)
    above = {k: v for k, v in whole.fixed.items() if k not in axes}
    crossed = {k: v for k, v in whole.axes.items() if k not in fixed}
    values, axes = above | fixed, crossed | axes
    exclude = whole.exclude + exclude
    return Grid(whole.name, values, axes, whole.seeds, exclude, place, whole.distinct_views)


def _check(fixed: dict[str, Any], axes: dict[str, Any], exclude: list[Any], place: str) -> None:
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{place}: axes.{axis}: 0 trials; expected a list with at least one value, "
                f"found `{values}`"
            )
        if axis in fixed:
            raise ValueError(f"{place}: `{axis}` is both fixed and an axis; keep one")
    if "seed" in fixed or "seed" in axes:
        raise ValueError(f"{place}: `seed` is given by `seeds`: a count, or a list")
    for entry in exclude:
        if not isinstance(entry, dict) or not entry:
            raise ValueError(f"{place}: exclude: expected {{field: value, ...}}, found `{entry}`")
    fields = list(TrialConfig.model_fields)
    for field in [*fixed, *axes, *(f for entry in exclude for f in entry)]:
        if field not in fields:
            raise ValueError(f"{place}: unknown field `{field}`; {closest(str(field), fields)}")


def _seeds(value: Any, place: str) -> list[int]:
    if isinstance(value, list):
        whole = all(type(s) is int and s >= 0 for s in value)
        if whole and value and len(set(value)) == len(value):
            return list(value)
    elif type(value) is int and value > LIMIT:
        raise ValueError(f"{place}: seeds: {value:,} trials > limit of {LIMIT:,}")
    elif type(value) is int and value >= 1:
        return list(range(value))
    raise ValueError(
        f"{place}: seeds: expected a count of at least 1, or a list of distinct seeds; "
        f"found {value!r}"
    )


def override(grid: Grid, settings: list[str], seeds: int | None) -> Grid:
    """`--set FIELD=VALUE` fixes a field (an axis of that name goes); `--seeds N` takes 0 to N-1."""
    fixed, axes = dict(grid.fixed), dict(grid.axes)
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write --set FIELD=VALUE")
        if field not in TrialConfig.model_fields or field == "seed":
            raise ValueError(
                f"--set {setting}: unknown field `{field}`; "
                f"{closest(field, list(TrialConfig.model_fields))}"
            )
        axes.pop(field, None)
        fixed[field] = parse_value(text, f"--set {setting}")
    chosen = grid.seeds if seeds is None else _seeds(seeds, "--seeds")
    parts = tuple(override(part, settings, seeds) for part in grid.parts)
    return replace(grid, fixed=fixed, axes=axes, seeds=chosen, parts=parts)


def expand(grid: Grid) -> list[TrialConfig]:
    """Every combination that is not excluded, of all parts, each validated, without duplicates.

    Raises: ValueError for an invalid combination, an empty grid or part, or more than the limit.
    """
    parts = grid.parts or (grid,)
    count = sum(
        len(part.seeds) * math.prod(len(values) for values in part.axes.values()) for part in parts
    )
    if count > LIMIT:
        raise ValueError(f"{grid.place}: {count:,} trials > limit of {LIMIT:,}; make axes shorter")
    trials: dict[str, TrialConfig] = {}
    for part in parts:
        own = _trials(part)
        if not own:
            raise ValueError(f"{part.place}: 0 trials; every combination is excluded")
        trials |= own
    return list(trials.values())


def _trials(grid: Grid) -> dict[str, TrialConfig]:
    trials: dict[str, TrialConfig] = {}
    for values in itertools.product(*grid.axes.values()):
        point = grid.fixed | dict(zip(grid.axes, values, strict=True))
        if any(point | entry == point for entry in grid.exclude):
            continue
        if any(_same(point, point | entry, grid.place) for entry in grid.exclude):
            continue
        for seed in grid.seeds:
            config = make_config(point | {"seed": seed}, grid.place)
            if grid.distinct_views:
                _refuse_repeats(config, grid.place)
            trials[config.identity] = config
    return trials


def _refuse_repeats(config: TrialConfig, place: str) -> None:
    epochs = config.epochs
    if epochs is None:
        epochs = epochs_shown(config, train_samples(config))
    if make_arm(config.arm).stochastic and config.views < epochs:
        raise ValueError(
            f"{place}: views: {config.views} of arm {config.arm} for {epochs} epochs, which would "
            f"show views again; this grid's are distinct: set views to {epochs} or more"
        )


def _same(point: dict[str, Any], excluded: dict[str, Any], place: str) -> bool:
    """Whether both are one trial in canonical spelling (`crop_flip` and `crop_flip:4` are)."""
    try:
        return make_config(point, place) == make_config(excluded, place)
    except ValueError:
        return False  # what is wrong with `point` is said where its trials are made
