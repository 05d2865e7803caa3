"""The rule for names of metrics is MLflow's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.support.metric_names import LONGEST, metric_name_error


@pytest.mark.parametrize("name", ["a", "rank/effective", "noise/pixel/0.1", "a b-c_d:e.f", "é"])
def test_valid(name: str) -> None:
    assert metric_name_error(name) is None


@pytest.mark.parametrize(
    "name", ["", "recall@5", "a,b", "a//b", "/a", "a/", "../a", ".", "a/./b", "a\n", "a" * 241]
)
def test_invalid(name: str) -> None:
    assert metric_name_error(name)


@given(st.text(alphabet="a1_-.:/ @%\n", max_size=8))
def test_it_refuses_what_mlflow_refuses(name: str) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric_name

    try:
        _validate_metric_name(name)
        valid = bool(name) and not name.endswith("\n")  # which MLflow's own expression overlooks
    except MlflowException:
        valid = False
    assert (metric_name_error(name) is None) == valid
    assert LONGEST < 250
