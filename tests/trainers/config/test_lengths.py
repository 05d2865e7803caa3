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
        ({"warmup": "5 epochs"}, 16, "warmup: `5 epochs` is 10 steps .* the trial has 10; choose"),
        ({"duration": "9 steps", "warmup": "72 samples"}, 99, "warmup: `72 samples` is 9 steps"),
        ({"curve_every": "0 steps"}, 99, "curve_every: 0 steps is less than a step; choose"),
        ({"curve_every": "0.5 epochs", "epochs": 0}, 15, "curve_every: 0.5 epochs is less than"),
    ],
)
def test_lengths_and_times_without_a_step_are_refused(
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
        {"epochs": 0, "warmup": "5 epochs"},
        {"epochs": 2, "warmup": "1 epochs", "curve_every": "8 samples"},
    ],
)
def test_one_step_suffices_and_untrained_students_say_so(change: dict[str, Any]) -> None:
    check_length(make_config(LEAST | change), 8)


def test_a_warmup_is_judged_once_the_samples_are_known() -> None:
    """An epoch of fewer samples is shorter, and so is a warm-up of one; 20 steps are 20."""
    config = make_config(LEAST | {"warmup": "1 epochs", "duration": "20 steps"})
    with pytest.raises(ValueError, match="warmup: `1 epochs` is 25 steps"):
        check_length(config, 200)
    check_length(config, 200, at_most=True)
    check_length(config, 40)
