"""What a Ray cluster has, or can start: `ray.cluster_resources` counts only the nodes that are up.

A cluster that starts machines on demand has no GPU before the first task needs one. Where only
nodes that are up were counted, trials would be placed on the CPUs of GPU machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray._private.state import state


def most(kind: str) -> float:
    """How many `CPU`, `GPU` or other resources the connected cluster has, or can come to have.

    The node types are those that the autoscaler reports to Ray's control store (KubeRay's does);
    otherwise those of the file that the autoscaler was started with, where it runs on this node, as
    it does for a driver on the head of a cluster that `ray up` started.
    """
    reported = state.get_max_resources_from_cluster_config() or {}
    config = {} if reported else _autoscaling_config()
    types = config.get("available_node_types", {})
    started = sum(
        float(node.get("resources", {}).get(kind, 0)) * node.get("max_workers", 0)
        for node in types.values()
    )
    largest = max((node.get("resources", {}).get(kind, 0) for node in types.values()), default=0)
    limit = float(largest) * config.get("max_workers", 0)
    return max(
        ray.cluster_resources().get(kind, 0.0), float(reported.get(kind, 0)), min(started, limit)
    )


def _autoscaling_config() -> dict[str, Any]:
    """The cluster file of the connected cluster's autoscaler on this node; empty where none is."""
    cluster = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    option = "--autoscaling-config="
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue  # it has ended, or belongs to another user
        files = [part.removeprefix(option) for part in command if part.startswith(option)]
        if cluster in command and files:
            content = yaml.safe_load(Path(files[0]).expanduser().read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
    return {}
