"""A trial that is to train makes a step: no untrained student is recorded as a distilled one."""

from __future__ import annotations

from typing import Any

import pytest

from trainers.canonical import make_config
from trainers.config.lengths import check_length

LEAST = {"dataset": "digits", "teacher": "embedded", "student": "width:1", "batch_size": 8}


@pytest.mark.parametrize(
    ("change", "samples", "fault"),
    [
        ({"duration": "5 samples"}, 41, "duration: `5 samples` .* choose at least `8 samples`"),
        ({"duration": "0.5 epochs"}, 15, "duration: `0.5 epochs` .* of 8 of the 15 train samples"),
        ({"epochs": 3}, 7, "batch_size: 8 is more than the 7 train samples; choose at most 7"),
        ({"epochs": 0}, 7, "batch_size: 8"),  # BatchNorm of an untrained student reads batches
    ],
)
def test_trials_that_make_no_step_are_refused(
    change: dict[str, Any], samples: int, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        check_length(make_config(LEAST | change), samples)


@pytest.mark.parametrize(
    "change",
    [
        {"duration": "8 samples"},
        {"duration": "0.5 epochs", "batch_size": 4},
        {"duration": "1 steps"},
        {"epochs": 0},
        {"objective": "none"},
    ],
)
def test_one_step_suffices_and_untrained_students_say_so(change: dict[str, Any]) -> None:
    check_length(make_config(LEAST | change), 8)
