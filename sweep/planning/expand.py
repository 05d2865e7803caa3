"""From a grid to its trials: every combination, validated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from shards.arms import make_arm
from shards.support.command import one_line
from sweep.planning.grid import LIMIT, Grid, listed_values, most_trials
from sweep.planning.proposals import first_draws
from sweep.planning.sizes import train_samples
from trainers.canonical import check_alone, make_config
from trainers.config.recipe import check_recipe
from trainers.config.schema import TrialConfig


def expand(grid: Grid) -> list[TrialConfig]:
    """Every trial of a grid, see `expand_with_resources`."""
    return [config for config, _ in expand_with_resources(grid)]


def expand_with_resources(grid: Grid) -> list[tuple[TrialConfig, dict[str, Any]]]:
    """Every trial of all parts that is not excluded, without duplicates.

    Two spellings of one trial (`crop_flip` and `crop_flip:4`) are one. The order is that of the
    grid: later axes vary faster, seeds fastest. With each trial comes what the grid says about its
    resources.

    Raises: ValueError, of one line, for an invalid combination, a grid or part without trials,
        more than LIMIT trials, or a value in `exclude`, `first` or `search.ranges` that no trial
        can have.
    """
    parts = grid.parts or (grid,)
    count = most_trials(grid)
    if count > LIMIT:
        raise ValueError(f"{grid.source}: {count:,} trials > limit of {LIMIT:,}; shorten an axis")
    for place, field, value in listed_values(grid):
        check_alone(field, value, place)
    trials: dict[str, tuple[TrialConfig, dict[str, Any]]] = {}
    for part in parts:
        found = _trials(part)
        if not found:
            raise ValueError(f"{part.source}: 0 trials; every combination is excluded")
        trials |= {trial: (config, part.resources) for trial, config in found.items()}
    return list(trials.values())


def notes_on_exclude(grid: Grid) -> list[str]:
    """A line that names the entries of `exclude` that match no trial, if there are any.

    No error: the axes may have been shortened, for example by `--set`.
    """
    parts = grid.parts or (grid,)
    unmatched: list[dict[str, Any]] = []
    for entry in (entry for part in parts for entry in part.exclude):
        matches = (
            _matched(combination, entry, part)
            for part in parts
            if entry in part.exclude
            for combination in _combinations(part)
        )
        if entry not in unmatched and not any(matches):
            unmatched.append(entry)
    return unmatched_note(grid, "exclude", unmatched)


def unmatched_note(grid: Grid, key: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """A line that names the entries under `key` that match no trial; none where all do."""
    listed = (", ".join(f"{name}: {value}" for name, value in one.items()) for one in entries)
    text = ", ".join(f"{{{entry}}}" for entry in listed)
    return [one_line(f"{grid.source}: {key}: no trial matches {text}")] if entries else []


def _trials(grid: Grid) -> dict[str, TrialConfig]:
    """{identity: trial} of a grid without parts."""
    trials: dict[str, TrialConfig] = {}
    for combination in _combinations(grid):
        excluded = {seed for entry in grid.exclude for seed in _matched(combination, entry, grid)}
        seeds = [seed for seed in grid.seeds if seed not in excluded]
        for config in _seeded(combination, seeds, grid):
            trials[config.identity] = config
    return trials


def _seeded(combination: dict[str, Any], seeds: list[int], grid: Grid) -> Iterator[TrialConfig]:
    """The trials of a combination, one for each seed.

    The first two are made of their fields. Where they differ in their seed alone, all others do.
    """
    made: list[TrialConfig] = []
    for seed in seeds:
        if len(made) == 2 and seed < 2**63:
            yield made[0].model_copy(update={"seed": seed})
            continue
        config = make_config(combination | {"seed": seed}, grid.source)
        check_recipe(config.recipe)
        if grid.distinct_views:
            _refuse_repeated_views(config, grid.source)
        if not made or config == made[0].model_copy(update={"seed": seed}):
            made.append(config)
        yield config


def _combinations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Every combination of the axes of a grid without parts, with each draw of its search."""
    for values in itertools.product(*grid.axes.values()):
        yield from _drawn(grid, grid.fixed | dict(zip(grid.axes, values, strict=True)))


def _drawn(grid: Grid, combination: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A combination with each draw of the search; by itself without one."""
    if grid.search is None:
        yield combination
        return
    for name in grid.search.ranges:
        if name in combination:
            raise ValueError(f"{grid.source}: `{name}` is given, and in search.ranges; keep one")
    for draw in first_draws(grid.search) if grid.draws is None else grid.draws:
        yield combination | draw


def _matched(combination: dict[str, Any], entry: dict[str, Any], grid: Grid) -> list[int]:
    """The seeds with which `combination` has every value of `entry`, in any spelling."""
    seeds = [seed for seed in grid.seeds if entry.get("seed", seed) == seed]
    changed = combination | {field: value for field, value in entry.items() if field != "seed"}
    if not seeds or changed == combination:
        return seeds
    try:
        same = make_config(combination, grid.source) == make_config(changed, grid.source)
    except ValueError:
        # Each value of the entry has been checked by itself, so it is the other fields that one of
        # the two contradicts. If that is `combination`, the caller reports it.
        return []
    return seeds if same else []


def _refuse_repeated_views(config: TrialConfig, source: str) -> None:
    """Raises: ValueError where the trial has more epochs than its arm has stored views."""
    epochs = config.epochs
    if epochs is None:
        epochs = config.epochs_begun(train_samples(config))
    if make_arm(config.arm).stochastic and config.views < epochs:
        raise ValueError(
            f"{source}: views: {config.views} of arm {config.arm} for {epochs} epochs would show "
            f"views again, which `distinct_views` excludes; set views to {epochs} or more"
        )
