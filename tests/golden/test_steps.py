"""RECIPE is part of every trial's identity: it must rise when three steps give other numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.steps import CASES, FILE, built, machine, steps_of
from trainers.canonical import make_config, stored_config
from trainers.config import recipe
from trainers.config.recipe import RECIPE, check_recipe, recipe_of
from trainers.config.schema import TrialConfig

FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
# On a machine of another kind, which sums in another order. Adam's first steps are about lr = 0.001
# whatever the gradient's size, so rounding alone moves parameters whose gradient is nearly zero.
# Seen between AVX512 and AVX2: losses 1.5e-3, sums 3.6e-3 or 0.023.
LOSSES, SUMS, SUMS_LEAST = 5e-3, 1e-2, 5e-2


def test_a_recipe_stands_for_its_numbers(tmp_path: Path) -> None:
    golden = json.loads(FILE.read_text())
    again = "python -m tests.golden.steps"
    assert golden["recipe"] == RECIPE, f"RECIPE was raised: write the new numbers, {again}"
    found = steps_of(built(str(tmp_path)))
    own = [known["cases"] for known in golden["machines"] if known["machine"] == machine()]
    cases = (own or [golden["machines"][0]["cases"]])[0]
    assert found.keys() == cases.keys() == CASES.keys()
    for name, case in found.items():
        expected = cases[name]
        advice = f"{name}: training gives other numbers; raise RECIPE, then {again}"
        if own:
            assert case == expected, advice
        else:
            assert case["losses"] == pytest.approx(expected["losses"], rel=LOSSES), advice
            sums = pytest.approx(expected["sums"], rel=SUMS, abs=SUMS_LEAST)
            assert case["sums"] == sums, advice


def test_cases_differ_from_each_other() -> None:
    """A case that equals another would test nothing."""
    for known in json.loads(FILE.read_text())["machines"]:
        cases = known["cases"].values()
        assert len({case["sha256"] for case in cases}) == len(cases)


def test_another_recipe_is_another_trial_and_the_first_is_not_written() -> None:
    first, second = (make_config(FIELDS | {"recipe": n}) for n in (1, 2))
    assert first == make_config(FIELDS)
    assert first.identity != second.identity
    assert "recipe" not in first.model_dump()
    assert second.model_dump()["recipe"] == 2
    assert recipe_of(first.model_dump()) == 1
    assert recipe_of(second.model_dump()) == 2
    with pytest.raises(ValueError, match="recipe: 2, but this code trains by recipe 1"):
        check_recipe(second.recipe)


def test_a_stored_trial_without_a_recipe_is_of_the_first() -> None:
    stored = make_config(FIELDS).model_dump()
    field = TrialConfig.model_fields["recipe"]
    assert field.default == recipe.RECIPE
    assert stored_config(stored | {"recipe": 2}).recipe == 2
    assert stored_config(stored).recipe == recipe.FIRST
