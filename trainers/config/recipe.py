"""RECIPE: the version of the arithmetic of training.

It goes up when a change makes a trial of the same fields end in other weights (initialisation, the
order of samples, a loss, an optimiser, a schedule), and then every trial gets another identity:
trials of the old and the new arithmetic are never taken for one another, nor averaged as seeds of
one group. `tests/golden/test_steps.py` fails where the numbers of a few steps change and RECIPE
does not.

Recipe 1 is not written: configurations, identities, checkpoints and results from before there was
a recipe are those of recipe 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST = 1
RECIPE = 1
RECIPE_FIELD = "recipe"


def recipe_of(config: Mapping[str, Any]) -> int:
    """The recipe of a stored configuration."""
    return int(config.get(RECIPE_FIELD, FIRST))


def check_recipe(recipe: int) -> None:
    """Raises: ValueError for a recipe by which this code does not train."""
    if recipe != RECIPE:
        raise ValueError(
            f"{RECIPE_FIELD}: {recipe}, but this code trains by recipe {RECIPE}; leave it out"
        )
