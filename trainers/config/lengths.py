"""How many samples a trial trains on, and whether its length and batch size make any step."""

from __future__ import annotations

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


def check_length(config: TrialConfig, train_samples: int) -> None:
    """Check that a batch can be filled, a trial that is to train makes a step, and so does the time
    before its first probes.

    Without this check a trial of `duration: 5 samples` with 8 samples a batch would end at once,
    and its untrained student would be recorded as a distilled one.

    Raises: ValueError with the field, its value and what would be right.
    """
    if train_samples < config.batch_size:
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {train_samples} train samples"
            f"{_held_out(config)}; choose at most {train_samples}"
        )
    _ = config.probed_steps(train_samples)
    if not config.trains or config.total_steps(train_samples) > 0:
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
