"""Reading curves: what was observed during training, on whichever images it was measured.

A trial with `validation_samples` was observed on its validation split, and its columns of
`Study.curves` begin with `validation/`; any other trial on the test split. Whoever follows a
measure over training reads it here.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

VALIDATION = "validation/"  # see trainers.probes.observer, which writes these names
PROBED = (
    "test/"  # values of the probes at the times in `probe_at`, see trainers.probes.intermediate
)


def observed(curves: pd.DataFrame, measure: str) -> Any:
    """The values of a measure, a Series over the rows of `curves`; NaN where there is none.

    A row is of one trial, so it has values of one split.
    """
    values: Any = pd.Series(float("nan"), index=curves.index)
    for name in (VALIDATION + measure, measure):
        if name in curves.columns:
            values = values.fillna(curves[name])
    return values


def images_of(curves: pd.DataFrame) -> str:
    """Which images curves were measured on, in words."""
    named = [str(name) for name in curves.columns if "/" in str(name)]
    own = [name for name in named if not name.startswith(PROBED)]
    held = [name for name in own if name.startswith(VALIDATION)]
    if not held:
        return "clean test images"
    held_out = "clean validation images, which are train images held out of training"
    return held_out if len(held) == len(own) else f"{held_out}, or of clean test images"
