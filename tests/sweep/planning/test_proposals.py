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


def rounds(search: Search, count: int) -> list[list[dict]]:
    proposals, found = Proposals(search), []
    for _ in range(count):
        found.append(proposals.ask())
        proposals.tell([value(draw) for draw in found[-1]])
    return found


def test_rounds_end_with_the_number_of_draws() -> None:
    assert [len(found) for found in rounds(SEARCH, 9)] == [4] * 7 + [2, 0]


def test_a_search_that_goes_on_proposes_what_an_undisturbed_one_does() -> None:
    whole = rounds(SEARCH, 8)
    assert rounds(SEARCH, 5) == whole[:5]
    assert rounds(SEARCH, 8) == whole
    assert rounds(SEARCH.model_copy(update={"seed": 1}), 8) != whole
    longer = SEARCH.model_copy(update={"trials": 40})
    assert rounds(longer, 7) == whole[:7]


def test_values_lead_it() -> None:
    whole = [draw for found in rounds(SEARCH, 8) for draw in found]
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
