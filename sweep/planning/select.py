"""Which trials of a grid to run: a part of them, and some before others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweep.planning.early_stopping import check_decidable, check_early_stopping
from sweep.planning.expand import expand_with_resources, unmatched_note
from sweep.planning.grid import Grid
from sweep.planning.kinds import alike
from sweep.planning.settings import parse_setting
from sweep.planning.sizes import check_lengths
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig


@dataclass(frozen=True)
class Trials:
    """The trials of a grid.

    Attributes:
        all: of them, in the order of the grid.
        chosen: those that are to run.
        resources: {trial identity: what each of its ranks occupies}, where the grid says so.
    """

    all: list[TrialConfig]
    chosen: list[TrialConfig]
    resources: dict[str, dict[str, Any]]


def trials_of(grid: Grid, settings: list[str]) -> Trials:
    """The trials of a grid, of which those are chosen that match the settings of `--only`.

    Raises: ValueError, of one line, for trials that cannot be, or cannot be decided about as the
        grid demands, and as `only`.
    """
    found = expand_with_resources(grid)
    trials = [config for config, _ in found]
    chosen = only(trials, settings)
    check_lengths(chosen)
    if grid.early_stopping is not None:
        check_early_stopping(grid.early_stopping, trials)
    if grid.search is not None:
        if grid.search.by == "optuna" and settings:
            raise ValueError("--only: optuna needs every trial that it proposes; leave it out")
        for config in trials:
            check_decidable(config, "search", grid.search.measure)
    return Trials(trials, chosen, {config.identity: needs for config, needs in found if needs})


def matches(config: TrialConfig, fields: dict[str, Any]) -> bool:
    """Whether the trial has every value of `fields`, in this spelling or another.

    A value that no trial with the other fields can have does not match.
    """
    given = config.model_dump(mode="json")
    try:
        return make_config(given | fields) == config
    except ValueError:
        return False


def matching(trials: Sequence[TrialConfig], fields: dict[str, Any]) -> list[TrialConfig]:
    """The trials that have every value of `fields`, in their order."""
    if "seed" in fields:
        return [config for config in trials if matches(config, fields)]
    # Trials that differ in their seed alone match or do not match together.
    kinds = [members for first, members in alike(trials).items() if matches(first, fields)]
    found = {config.identity for members in kinds for config in members}
    return [config for config in trials if config.identity in found]


def notes_on_first(grid: Grid, trials: Sequence[TrialConfig]) -> list[str]:
    """A line that names the entries of `first` that match no trial, if there are any."""
    entries = [entry for entry in grid.first if not matching(trials, entry)]
    return unmatched_note(grid, "first", entries)


def priorities(trials: list[TrialConfig], first: Sequence[dict[str, Any]]) -> dict[str, int]:
    """{trial identity: number of the first entry that it matches}, of those that match one."""
    found: dict[str, int] = {}
    for number, fields in enumerate(first):
        for config in matching(trials, fields):
            found.setdefault(config.identity, number)
    return found


def only(trials: list[TrialConfig], settings: list[str]) -> list[TrialConfig]:
    """The trials that match `FIELD=VALUE` settings: of each field any, of different fields all.

    Raises: ValueError, of one line, for an unknown field, a value that is not YAML, or where no
    trial matches.
    """
    wanted: dict[str, list[Any]] = {}
    for setting in settings:
        field, value = parse_setting("--only", setting)
        wanted.setdefault(field, []).append(value)
    chosen = trials
    for field, values in wanted.items():
        having = {c.identity for value in values for c in matching(chosen, {field: value})}
        found = [config for config in chosen if config.identity in having]
        if not found:
            has = list(dict.fromkeys(str(c.model_dump(mode="json").get(field)) for c in chosen))
            some = ", ".join(has[:8]) + (", ..." if len(has) > 8 else "")
            given = " or ".join(str(value) for value in values)
            raise ValueError(f"--only {field}={given}: no trial has it; there are {some}")
        chosen = found
    return chosen
