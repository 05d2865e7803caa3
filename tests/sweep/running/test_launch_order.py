"""Which node type the autoscaler launches, by Ray's own choice of nodes for demands."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from sweep.running import launch_order

pytestmark = pytest.mark.ray
NODES: Any = {
    name: {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8}
    for name in ("first", "last", "spot")
}
FILE = """\
available_node_types:
  first: {priority: 10}
  spot: {priority: 9}
  last: {priority: 0}
"""


@pytest.fixture(autouse=True)
def _file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(FILE)
    monkeypatch.setattr(launch_order, "BOOTSTRAP_FILE", str(tmp_path / "config.yaml"))
    launch_order._priorities.cache_clear()


def chosen(refused: dict[str, float], demand: dict[str, float]) -> dict[str, int]:
    """{node type: how many} of them. refused: when the last launch of each type was."""
    from ray.autoscaler._private.node_provider_availability_tracker import (
        NodeAvailabilityRecord,
        NodeAvailabilitySummary,
    )
    from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for

    records = {
        name: NodeAvailabilityRecord(name, False, time, None) for name, time in refused.items()
    }
    scorer: Any = functools.partial(
        launch_order.score, node_availability_summary=NodeAvailabilitySummary(records)
    )
    demands: Any = [demand] * 2
    nodes, _ = get_nodes_for(NODES, {}, "head", 8, demands, scorer)
    return dict(nodes)


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        ({}, "first"),
        ({"last": 1.0}, "first"),
        ({"first": 1.0}, "spot"),
        ({"first": 1.0, "spot": 2.0}, "last"),
        ({"first": 2.0, "spot": 1.0, "last": 3.0}, "spot"),  # each in turn
    ],
)
def test_the_highest_priority_that_was_not_refused(refused: dict[str, float], name: str) -> None:
    assert chosen(refused, {"GPU": 1}) == {name: 2}


def test_no_type_for_a_demand_that_fits_none() -> None:
    assert chosen({}, {"GPU": 2}) == {}
