"""Which node type Ray's autoscaler launches: one that can be had, of the highest priority.

Ray 2.60 goes on launching the type that it prefers, however often EC2 has no capacity for it: its
newer autoscaler notices instances that never come up, not launches that are refused, and the older
one records those and ignores them. The older one lets a function score the types, see `score` and
the start command of the head in cluster.yaml.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"  # the cluster file, where `ray up` leaves it


def score(
    node_resources: Any,
    resources: Any,
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """The higher the better; None where no demand fits. Its form is given by Ray's autoscaler.

    First come types whose last launch was not refused, then those that fit best by Ray's own
    score, then those of the highest `priority`. Ray forgets a refusal after
    AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S. Where all were refused, the one that was refused
    longest ago comes first, so that each is tried in turn.

    node_resources: of a node of that type, {name: amount}. resources: the demands, a list of such.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    fit = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    if last is not None and not last.is_available:
        return (False, fit, -last.last_checked_timestamp)
    return (True, fit, _priorities().get(node_type, 0))


@functools.cache
def _priorities() -> dict[str, float]:
    """Of the node types that have one."""
    config = yaml.safe_load(Path(BOOTSTRAP_FILE).expanduser().read_text(encoding="utf-8"))
    types = config["available_node_types"]
    return {name: node["priority"] for name, node in types.items() if "priority" in node}
