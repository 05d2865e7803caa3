"""Whether every node of a cluster sees the folder that is the store.

A store on a disk has to be the same folder on all nodes. Where it is not, a trial on another
machine would find no bank there, or write its results where nobody looks for them.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shards.support import storage

DELAY = 5.0  # seconds after which a network mount shows a new file at the latest
ANSWER_SECONDS = 60.0  # of a node; one that does not answer is left to what happens later
REMEDY = "give --store a folder that all nodes have at the same path, or s3:// or gs://"


def check_shared(store: str) -> None:
    """Check the nodes that are up. Raises: ValueError naming one that sees another folder."""
    if not storage.is_local(store):
        return
    marker = storage.local_path(store) / f".seen-{uuid.uuid4().hex}"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    try:
        blind = nodes_without(str(marker))
    finally:
        marker.unlink()
    if blind:
        raise ValueError(
            f"--store {store} (--out where there is none): {len(blind)} of the cluster's nodes, "
            f"such as {blind[0]}, see another folder there; {REMEDY}"
        )


def check_seen(store: str, bank: str) -> None:
    """Check this node, where a trial starts: it may have joined the cluster later.

    Raises: ValueError where the trial's bank, which is finished, is not there.
    """
    if storage.is_local(bank) and not storage.exists(bank):
        raise ValueError(
            f"--store {store} (--out where there is none): node {ray.util.get_node_ip_address()} "
            f"sees another folder there, without {bank}; {REMEDY}"
        )


def nodes_without(file: str) -> list[str]:
    """Addresses of the connected cluster's nodes on which `file` does not exist."""
    look: Any = ray.remote(_is_missing)
    answers = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = look.options(num_cpus=0, scheduling_strategy=there).remote(file)
            answers[answer] = node["NodeManagerAddress"]
    blind = []
    for answer, address in answers.items():
        try:
            if ray.get(answer, timeout=ANSWER_SECONDS):
                blind.append(address)
        except (RayError, GetTimeoutError):
            continue
    return blind


def _is_missing(file: str) -> bool:
    end = time.monotonic() + DELAY
    while not Path(file).exists():
        if time.monotonic() > end:
            return True
        time.sleep(0.2)
    return False
