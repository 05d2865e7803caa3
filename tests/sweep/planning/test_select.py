"""`--only`: a part of a grid."""

from __future__ import annotations

import pytest

from sweep.planning.grid import read_grid
from sweep.planning.select import only, priorities
from trainers.canonical import make_config

TRIALS = [
    make_config(
        {
            "dataset": "digits", "teacher": "embedded", "student": student, "arm": arm,
            "seed": seed, "epochs": 2, "views": 2,
        }
    )
    for student in ("width:1", "params:500K")
    for arm in ("clean", "crop_flip")
    for seed in (0, 1)
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ([], 8),
        (["arm=clean"], 4),
        (["student=params:0.5M"], 4),  # another spelling of the same
        (["arm=crop_flip:4", "seed=1"], 2),
        (["seed=0", "seed=1"], 8),
        (["student=width:1", "arm=clean", "seed=0"], 1),
    ],
)
def test_of_one_field_any_and_of_different_fields_all(settings: list[str], count: int) -> None:
    found = only(TRIALS, settings)
    assert len(found) == count
    assert [c for c in TRIALS if c in found] == found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["arm"], "--only arm: write --only FIELD=VALUE"),
        (["amr=clean"], "--only amr=clean: unknown field `amr`; did you mean `arm`"),
        (["seed=7"], "--only seed=7: no trial has it; there are 0, 1"),
        (["student=width:3"], "no trial has it; there are width:1, params:"),
        (["seed=[1"], "--only seed=[1"),
    ],
)
def test_what_selects_nothing_is_one_line(settings: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"^--only") as refused:
        only(TRIALS, settings)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_trials_that_a_grid_puts_first_are_numbered_by_entry() -> None:
    found = priorities(TRIALS, [{"arm": "crop_flip:4", "seed": 1}, {"arm": "crop_flip"}])
    assert {c.identity: c.seed for c in TRIALS if found.get(c.identity) == 0} == {
        c.identity: 1 for c in TRIALS if c.arm.startswith("crop_flip") and c.seed == 1
    }
    assert sorted(found.values()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("clean", "first: expected a list"),
        ("[clean]", "first: expected {field: value, ...}, found `clean`"),
        ("[{amr: clean}]", "unknown field `amr`; did you mean `arm`"),
    ],
)
def test_what_comes_first_is_checked(first: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^mine\.yaml: ") as refused:
        read_grid(f"first: {first}\n", "mine.yaml", "mine")
    assert said in str(refused.value)
