"""Optuna's proposals: better where values say so, and the same again after an interruption."""

from __future__ import annotations

import math
import sys

import pytest

from sweep.planning.proposals import Proposals
from sweep.planning.search import Search

SEARCH = Search.model_validate(
    {"by": "optuna", "trials": 30, "at_once": 4, "metric": "ridge/accuracy", "mode": "max"}
    | {
        "ranges": {
            "lr": {"log": [1e-4, 1e-1]},
            "epochs": {"integer": [1, 9]},
            "batch_size": {"choice": [32, 64]},
        }
    }
)


def value(draw: dict) -> float:
    """Best at lr 0.01 and batch size 64; undefined for one draw in nine."""
    if draw["epochs"] == 5:
        return math.nan
    return -((math.log10(draw["lr"]) + 2) ** 2) + (draw["batch_size"] == 64)


def drawn(search: Search, count: int) -> list[dict]:
    """The draws of a search that ends once so many draws have values."""
    proposals = Proposals(search)
    found = proposals.first()
    for number in range(count):
        draw = proposals.next(value(found[number]))
        found += [] if draw is None else [draw]
    return found


def test_the_first_ones_need_no_value_and_each_value_leads_to_one_more() -> None:
    assert [len(drawn(SEARCH, count)) for count in (0, 1, 5, 26, 30)] == [4, 5, 9, 30, 30]
    assert len(drawn(SEARCH.model_copy(update={"trials": 3}), 3)) == 3


def test_a_search_that_goes_on_proposes_what_an_undisturbed_one_does() -> None:
    whole = drawn(SEARCH, 30)
    assert drawn(SEARCH, 17) == whole[:21]
    assert drawn(SEARCH, 30) == whole
    assert drawn(SEARCH.model_copy(update={"seed": 1}), 30) != whole
    longer = SEARCH.model_copy(update={"trials": 40})
    assert drawn(longer, 26) == whole


def test_values_lead_it() -> None:
    whole = drawn(SEARCH, 30)
    late = whole[-10:]
    near = [abs(math.log10(draw["lr"]) + 2) < 0.75 for draw in late]
    assert sum(near) > 6  # by chance it would be half of them
    for draw in whole:
        assert 1e-4 <= draw["lr"] <= 1e-1
        assert draw["epochs"] in range(1, 10)
        assert draw["batch_size"] in (32, 64)


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"^search: `by: optuna` needs Optuna; pip install "):
        Proposals(SEARCH)
