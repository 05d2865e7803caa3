"""Rules for clouds: what is billed, when it ends, and what stands in where there is no spot."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.clusters.cluster_file import ClusterFile, Rule

MAX_IDLE_MINUTES = 30
# The brackets keep the pattern from finding the shell in whose command it stands.
UNWATCHED = "pgrep -f 'sweep[.]cluster watch' || shutdown"


def head_runs_no_trial(file: ClusterFile) -> Iterator[str]:
    if file.head.get("resources") != {"CPU": 0} or file.head.get("max_workers") != 0:
        yield "the head must have resources {CPU: 0} and max_workers 0, so that no trial runs on it"


def workers(file: ClusterFile) -> Iterator[str]:
    most = file.config.get("max_workers", 0)
    if not file.workers or most < 1:
        yield "no worker can ever start; add a node type beside the head, and max_workers above 0"
    for name, node in file.workers.items():
        if node.get("min_workers") != 0:
            yield f"{name}.min_workers must be 0: nothing is billed while nothing runs"
        if not 1 <= node.get("max_workers", 0) <= most:
            yield f"{name}.max_workers must lie between 1 and the cluster's max_workers, {most}"
        if not node.get("resources", {}).get("GPU"):
            yield f"{name} has no GPU among its resources"


def idle_timeout(file: ClusterFile) -> Iterator[str]:
    minutes = file.config.get("idle_timeout_minutes")
    if not isinstance(minutes, int | float) or not 0 < minutes <= MAX_IDLE_MINUTES:
        yield f"idle_timeout_minutes: found {minutes}; above 0 and at most {MAX_IDLE_MINUTES}"


def watchdog(file: ClusterFile) -> Iterator[str]:
    """Workers without a head shut themselves down."""
    lines = file.config.get("worker_start_ray_commands", [])
    if not any(
        "sweep.cluster watch $RAY_HEAD_IP:" in line and "shutdown" in line for line in lines
    ):
        yield "worker_start_ray_commands: start `sweep.cluster watch $RAY_HEAD_IP:PORT` in them"


def check_first_scripts(file: ClusterFile, scripts: dict[str, str], where: str) -> Iterator[str]:
    """Workers also shut down where their head dies before it has started the watchdog on them.

    scripts: {node type: what its machines run when they start}. where: the parameter that holds it.
    """
    for name, script in scripts.items():
        if name not in file.workers:
            if "shutdown" in script:
                yield f"{name}: {where} would end the head, and the sweep with it"
        elif not script.startswith("#!") or UNWATCHED not in script or "--on-active" not in script:
            yield (
                f"{name}: {where} lacks `#!/bin/sh`, or systemd-run --on-active=45min with "
                f"`{UNWATCHED}`: where the head dies during the set-up, nobody would end the worker"
            )


def notices(file: ClusterFile) -> Iterator[str]:
    """Nothing of Ray looks for the notice that a spot machine will be taken away."""
    kind = file.provider["type"]
    if f"export DISTIL_SPOT_NOTICE={kind};" not in file.start_commands["worker_start_ray_commands"]:
        yield f"worker_start_ray_commands: export DISTIL_SPOT_NOTICE={kind} before ray start"


def check_markets(file: ClusterFile, spot: set[str], where: str) -> Iterator[str]:
    """Workers are spot machines; on-demand ones come only where a launch of those has failed.

    spot: names of the node types that are. where: the parameter that makes one so.
    """
    if file.config["head_node_type"] in spot:
        yield "the head is a spot machine: losing it loses the scheduler; make it an on-demand one"
    types = {name: node for name, node in file.workers.items() if name in spot}
    lowest = min((node.get("priority", 0) for node in types.values()), default=0)
    for name, node in file.workers.items():
        if name in spot:
            continue
        if not types:
            yield f"{name} is billed on demand: {where}"
        elif node.get("priority", 0) >= lowest:
            yield (
                f"{name} is billed on demand: its priority must be below that of every spot type, "
                f"{lowest}, so that it comes only where those cannot be had"
            )
        elif all(node.get("resources") != other.get("resources") for other in types.values()):
            yield f"{name}: resources of no spot type; it could not stand in for one"


RULES: tuple[Rule, ...] = (head_runs_no_trial, workers, idle_timeout, watchdog, notices)
