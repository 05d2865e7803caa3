"""The intervals probe: its ends lie around the values of the other probes."""

import numpy as np
import pytest

from trainers.probes import run_probes


def test_the_probe_gives_ends_around_what_the_others_give(features):
    probes = ("spectrum", "linear", "neighbours", "zero_shot", "intervals")
    metrics, arrays = run_probes(probes, features, "test")
    ends = [name for name in metrics if name.endswith("/low")]
    assert len(ends) == 7
    for name in ends:
        middle = metrics[name.removesuffix("/low")]
        assert metrics[name] < middle < metrics[name.replace("/low", "/high")]
    for classifier in ("linear/paper", "linear/standard", "knn", "zero_shot"):
        right = arrays[f"test/{classifier}/correct"]
        assert set(right) == {0.0, 1.0}
        assert np.mean(right) == pytest.approx(metrics[f"test/{classifier}/accuracy"])
    assert arrays["test/rank/curve/n"] == [100, 150]
    assert arrays["test/rank/curve/effective"][0] == metrics["test/rank/at/100"]
    assert arrays["test/rank/curve/effective"][1] == pytest.approx(metrics["test/rank/effective"])
    assert "test/rank/at/150" not in metrics  # 150 is no common N
