"""From a grid to its trials: every combination, validated."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from shards.arms import make_arm
from sweep.planning.grid import LIMIT, Grid, most_trials
from sweep.planning.proposals import first_draws
from sweep.planning.sizes import train_samples
from trainers.canonical import make_config
from trainers.config.recipe import check_recipe
from trainers.config.schema import TrialConfig


def expand(grid: Grid) -> list[TrialConfig]:
    """Every trial of a grid, see `expand_with_resources`."""
    return [config for config, _ in expand_with_resources(grid)]


def expand_with_resources(grid: Grid) -> list[tuple[TrialConfig, dict[str, Any]]]:
    """Every combination of all parts that is not excluded, without duplicates.

    Two spellings of one trial (`crop_flip` and `crop_flip:4`) are one. The order is that of the
    grid: later axes vary faster, seeds fastest. With each trial comes what the grid says about its
    resources.

    Raises: ValueError, of one line, for an invalid combination, a grid or part without trials, or
        more than LIMIT trials.
    """
    parts = grid.parts or (grid,)
    count = most_trials(grid)
    if count > LIMIT:
        raise ValueError(f"{grid.source}: {count:,} trials > limit of {LIMIT:,}; shorten an axis")
    trials: dict[str, tuple[TrialConfig, dict[str, Any]]] = {}
    for part in parts:
        found = _trials(part)
        if not found:
            raise ValueError(f"{part.source}: 0 trials; every combination is excluded")
        trials |= {trial: (config, part.resources) for trial, config in found.items()}
    return list(trials.values())


def _trials(grid: Grid) -> dict[str, TrialConfig]:
    """{identity: trial} of a grid without parts."""
    trials: dict[str, TrialConfig] = {}
    for values in itertools.product(*grid.axes.values()):
        combination = grid.fixed | dict(zip(grid.axes, values, strict=True))
        for drawn in _drawn(grid, combination):
            if any(_excluded(drawn, entry, grid.source) for entry in grid.exclude):
                continue
            for config in _seeded(drawn, grid):
                trials[config.identity] = config
    return trials


def _seeded(combination: dict[str, Any], grid: Grid) -> Iterator[TrialConfig]:
    """The trials of a combination, one for each seed.

    The first two are made of their fields. Where they differ in their seed alone, all others do.
    """
    made: list[TrialConfig] = []
    for seed in grid.seeds:
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


def _excluded(combination: dict[str, Any], entry: dict[str, Any], source: str) -> bool:
    """Whether `combination` has every value of `entry`, in this spelling or another."""
    changed = combination | entry
    if changed == combination:
        return True
    try:
        return make_config(combination, source) == make_config(changed, source)
    except ValueError:
        # One of the two is no valid trial. If it is `combination`, the caller reports it.
        return False


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
