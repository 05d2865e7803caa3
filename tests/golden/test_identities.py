"""Trials keep their names: a refactoring that changed one would train everything again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from sweep.planning.settings import override

IDENTITIES = json.loads(Path(__file__).with_name("identities.json").read_text())


@pytest.mark.parametrize("command", sorted(IDENTITIES))
def test_every_trial_of_a_grid_has_the_identity_it_always_had(command: str) -> None:
    """`command`: a grid's name and the settings of `--set`, separated by bars.

    `earlier_demo` is a file of this folder: the shipped grid has changed, its trials have not.
    """
    name, *settings = command.split("|")
    file = Path(__file__).with_name("earlier_demo.yaml")
    grid = override(load_grid(str(file) if name == file.stem else name), settings, None)
    assert [config.identity for config in expand(grid)] == IDENTITIES[command]
