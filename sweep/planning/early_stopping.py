"""`early_stopping` of a grid: which trials may be ended before they are done, and by what.

    early_stopping:
      by: asha                # or median
      metric: ridge/accuracy  # of the curves, on the validation split
      mode: max               # or min
      grace_epochs: 1         # no trial is stopped before (default: 1)
      reduction: 4            # asha: of so many trials that reach a rung, one goes on (default: 4)
      min_trials: 3           # median: so many others must have come as far (default: 3)

Decisions rest on the validation split alone, so trials need `validation_samples`, and a
`curve_every` of whole epochs. This module needs neither torch nor Ray.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pydantic import Field

from shards.support.schema import StrictModel, validated
from trainers.config.schema import TrialConfig
from trainers.config.types import Integer, Number, Text

KEY = "early_stopping"
SPLIT = "validation/"  # see trainers.probes.observer
ALIGNED = ("cosine_to_teacher", "alignment")  # of students in the teacher's space alone
Model = TypeVar("Model", bound=StrictModel)
WHOLE_EPOCHS = re.compile(r"[1-9][0-9]* epochs")


class DecidedByMetric(StrictModel):
    """What a section of a grid says of the metric on the validation split that decides."""

    metric: Text
    mode: Literal["max", "min"]

    @property
    def measure(self) -> str:
        """The name under which the metric is observed."""
        return self.metric if self.metric.startswith(SPLIT) else SPLIT + self.metric


class EarlyStopping(DecidedByMetric):
    """The fields of `early_stopping`, see the module."""

    by: Literal["asha", "median"]
    grace_epochs: Integer = Field(default=1, ge=1)
    reduction: Number = Field(default=4.0, gt=1)
    min_trials: Integer = Field(default=3, ge=1)


def read_early_stopping(raw: Any, source: str) -> EarlyStopping | None:
    """As `read_section`."""
    return read_section(EarlyStopping, raw, f"{source}: {KEY}")


def read_section(model: type[Model], raw: Any, place: str) -> Model | None:
    """The checked section of a grid; None without one. Raises: ValueError of one line."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ValueError(f"{place}: expected `name: value` lines, found `{raw}`")
    return validated(model, raw, place)


def check_early_stopping(rule: EarlyStopping, trials: Iterable[TrialConfig]) -> None:
    """Check that decisions can be made without the test images.

    Raises: ValueError naming the first field of a trial that is in the way.
    """
    for config in trials:
        if config.trains:
            check_decidable(config, KEY, rule.measure)
            if not WHOLE_EPOCHS.fullmatch(config.curve_every or ""):
                raise ValueError(
                    f"{KEY}: trials are stopped at the end of an epoch, so curve_every: "
                    f"`{config.curve_every}` must be whole epochs, such as `1 epochs`"
                )


def check_decidable(config: TrialConfig, what: str, measure: str) -> None:
    """Check that a measure of a trial is observed on a validation split.

    Raises: ValueError naming `what` needs it, and what would be right.
    """
    from trainers.probes.names import metric_of  # needs torch
    from trainers.probes.teacher_space import learns_teacher_space

    bare = measure.removeprefix(SPLIT)
    if bare.startswith("test/"):
        raise ValueError(
            f"{what}: metric: `{bare}` is of test images, by which results would be too good; "
            "choose one of the curves in docs/metrics.md, such as `ridge/accuracy`"
        )
    if metric_of(f"curve/{bare}") is None or bare == "epoch":
        raise ValueError(
            f"{what}: metric: `{bare}` is not observed while trials train; choose one of the "
            "curves in docs/metrics.md, such as `ridge/accuracy`"
        )
    if bare in ALIGNED and not learns_teacher_space(config):
        raise ValueError(
            f"{what}: metric: `{bare}` has no meaning for objective `{config.objective}` and "
            f"target `{config.target}`; choose one such as `ridge/accuracy`"
        )
    if not config.validation_samples:
        raise ValueError(
            f"{what}: decided by test images, results would be too good; set validation_samples"
        )
    if config.curve_every is None:
        raise ValueError(f"{what}: nothing is observed while trials train; set curve_every")
