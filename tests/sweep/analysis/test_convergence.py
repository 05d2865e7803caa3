"""How far a rank moves at the end of training, and where too little was observed to say."""

from __future__ import annotations

import pandas as pd
import pytest

from sweep.analysis.convergence import movement


def curves(values: dict[int, float]) -> pd.DataFrame:
    """A seed's ranks by step."""
    rows = [{"trial": "a", "step": s, "rank/effective": v} for s, v in values.items()]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "observed",
    [
        {},
        {0: 16.0},
        {0: 16.0, 1000: 16.2},
        {0: 3.0, 500: 16.0, 1000: 16.2},
        {0: 3.0, 590: 16.0, 1000: 16.2},
        {900: 16.0, 1000: 16.2},
    ],
)
def test_a_chord_over_what_was_not_observed_is_not_judged(observed: dict[int, float]) -> None:
    assert movement(curves(observed or {0: float("nan")})) is None


@pytest.mark.parametrize("steps", [1, 23, 781])
@pytest.mark.parametrize("epochs", [*range(3, 13), 30, 100])
def test_each_of_three_or_more_epochs_is_observed_closely_enough(epochs: int, steps: int) -> None:
    observed = {epoch * steps: 10.0 for epoch in range(epochs)} | {epochs * steps: 8.0}
    moved = movement(curves(observed))
    # The last epoch, or of few epochs the part of it in the last fifth of training.
    assert moved == pytest.approx(0.25 * min(1.0, 0.2 * epochs))


@pytest.mark.parametrize(("epochs", "every"), [(30, 5), (7, 2), (5, 3), (100, 33)])
def test_an_interval_of_several_epochs_is_judged_too(epochs: int, every: int) -> None:
    seen = [*range(0, epochs, every), epochs]
    assert movement(curves({30 * epoch: 10.0 for epoch in seen})) == 0.0


def test_an_observation_of_one_seed_alone_does_not_count() -> None:
    other = curves({0: 16.0, 1000: 16.2}).assign(trial="b")
    both = pd.concat([curves({0: 16.0, 700: 40.0, 1000: 16.2}), other])
    assert movement(both) is None
