"""How many samples a trial trains on, and whether its times make sense with so many."""

from __future__ import annotations

from trainers.config.durations import in_steps
from trainers.config.schema import TrialConfig


def samples_left(config: TrialConfig, samples: int) -> int:
    """How many of `samples` train samples are trained on: those not held out for validation.

    Raises: ValueError with both numbers where none are left.
    """
    left = samples - config.validation_samples
    if left < 1:
        raise ValueError(
            f"validation_samples: {config.validation_samples} of {samples} train samples leaves "
            f"none to train on; choose fewer than {samples}"
        )
    return left


def check_length(config: TrialConfig, train_samples: int, at_most: bool = False) -> None:
    """Check that a batch can be filled, that a trial that is to train makes a step, and more than
    its warm-up, and that its times of observations and probes are a step or more.

    Without this check a trial of `duration: 5 samples` with 8 samples a batch would end at once,
    and its untrained student would be recorded as a distilled one.

    at_most: whether there may be fewer samples. The warm-up is then passed over: fewer samples may
        shorten it and not the trial.

    Raises: ValueError with the field, its value and what would be right.
    """
    if train_samples < config.batch_size:
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {train_samples} train samples"
            f"{_held_out(config)}; choose at most {train_samples}"
        )
    _ = config.probed_steps(train_samples), config.steps_of_curve(train_samples)
    if not config.trains:
        return
    total = config.total_steps(train_samples)
    if total > 0:
        warmup = in_steps(config.warmup, config.batch_size, train_samples)
        if warmup >= total and not at_most:
            raise ValueError(
                f"warmup: `{config.warmup}` is {warmup} steps of {config.batch_size} of the "
                f"{train_samples} train samples, but the trial has {total}; choose less than that"
            )
        return
    unit = (config.duration or "").split()[-1]
    least = {"samples": f"{config.batch_size} samples"}.get(unit, "1 steps")
    raise ValueError(
        f"duration: `{config.duration}` is less than one optimiser step of {config.batch_size} of "
        f"the {train_samples} train samples; choose at least `{least}`, or `epochs: 0` for an "
        "untrained student"
    )


def _held_out(config: TrialConfig) -> str:
    held = config.validation_samples
    return f" that validation_samples: {held} leaves" if held else ""
