"""Whether a measure had settled when training ended: underfitting alone lowers a rank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from sweep.analysis.curves import observed

RANK = "rank/effective"
LAST = 0.2  # share of the training at whose end the rank must hold still
APART = 2 * LAST  # largest share of it between the observations around the start of that end
MOVES = 0.02  # relative movement in it below which a rank counts as settled


def movement(curves: pd.DataFrame, measure: str = RANK) -> float | None:
    """How far the mean curve over seeds moves in the last fifth of training, relative to its end.

    curves: rows of (trial, step) of one group, see `Study.curves`; of the validation split where
    the trials have one, see `sweep.analysis.curves`. The mean is over the seeds that
    were observed at a step, and only of steps at which all were. With v(t) that mean, interpolated
    linearly, and T the last step: max |v(t) - v(T)| / |v(T)| over t in [0.8 T, T]; 0 upwards, lower
    is better.

    None where the movement is unknown: the last observation up to 0.8 T and the first one from
    there lie more than 0.4 T apart, or there are no two. Between them v is a chord. From the
    untrained student, or from half of the training, to its end, the chord would be flat whatever
    the rank did on the way. Observing each of 3 or more epochs is close enough, as is any interval
    of up to a third of training; each of 2 epochs is not.
    """
    rows: Any = curves.assign(value=observed(curves, measure)).dropna(subset=["value"])
    if rows.empty:
        return None
    by_step = rows.groupby("step")["value"].agg(["mean", "count"]).sort_index()
    whole = by_step[by_step["count"] == rows["trial"].nunique()]
    steps_T, values_T = whole.index.to_numpy(dtype=float), whole["mean"].to_numpy(dtype=float)
    if len(steps_T) < 2 or values_T[-1] == 0:
        return None
    start = (1 - LAST) * steps_T[-1]
    before_T, after_T = steps_T[steps_T <= start], steps_T[steps_T >= start]
    if not len(before_T) or after_T[0] - before_T[-1] > APART * steps_T[-1]:
        return None
    inside_T = values_T[steps_T >= start]
    reached = np.append(inside_T, np.interp(start, steps_T, values_T))
    moved = float(abs(reached - values_T[-1]).max() / abs(values_T[-1]))
    return moved if math.isfinite(moved) else None
