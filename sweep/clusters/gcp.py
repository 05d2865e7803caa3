"""Rules for Google Cloud: spot machines, disks, images, the network, and what a worker may do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweep.clusters.billed import check_first_scripts, check_markets
from sweep.clusters.cluster_file import ClusterFile, Rule
from sweep.clusters.gce import NODE_CONFIG
from sweep.clusters.parameters import unknown_parameters

CALL = "Compute Engine's instances.insert"


def node_config_keys(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        yield from unknown_parameters(node, f"{name}.node_config", NODE_CONFIG, CALL)


def place(file: ClusterFile) -> Iterator[str]:
    provider = file.provider
    if not provider.get("project_id"):
        yield "provider.project_id is missing"
    # Ray starts every machine in the one zone that stands here; it reads no list of zones.
    zone = str(provider.get("availability_zone"))
    if zone[:-2] != provider.get("region"):
        yield f"availability_zone: found {zone}; expected one zone of {provider.get('region')}"


def spot(file: ClusterFile) -> Iterator[str]:
    marked: set[str] = set()
    for name, node in file.node_configs.items():
        scheduling = _scheduling(node)
        if scheduling is None:
            yield f"{name}: scheduling must be a mapping; a list of them marks no spot machine"
        elif scheduling.get("provisioningModel") == "SPOT":
            marked.add(name)
            if scheduling.get("instanceTerminationAction") != "DELETE":
                yield f"{name}: instanceTerminationAction must be DELETE: disks are billed"
        elif scheduling.get("preemptible"):
            yield f"{name}: preemptible machines end after a day; provisioningModel: SPOT instead"
    yield from check_markets(file, marked, "scheduling.provisioningModel must be SPOT")


def one_worker_type(file: ClusterFile) -> Iterator[str]:
    """Ray does not notice that a launch was refused: of several types it tries one for ever."""
    if len(file.workers) > 1:
        names = ", ".join(file.workers)
        yield f"node types {names}: on Google Cloud Ray never turns to another one; keep one"


def maintenance(file: ClusterFile) -> Iterator[str]:
    """A machine with a GPU cannot be moved: Google starts none that asks for it."""
    for name in file.workers:
        scheduling = _scheduling(file.node_configs[name]) or {}
        if scheduling.get("onHostMaintenance") != "TERMINATE":
            yield f"{name}: scheduling.onHostMaintenance must be TERMINATE for a machine with a GPU"


def _scheduling(node: dict[str, Any]) -> dict[str, Any] | None:
    found = node.get("scheduling", {})
    return found if isinstance(found, dict) else None


def shutdown(file: ClusterFile) -> Iterator[str]:
    """Google only stops a machine that shuts itself down: its disk is billed on, its GPU is not."""
    scripts = {}
    for name, node in file.node_configs.items():
        items = (node.get("metadata") or {}).get("items") or []
        given = {item.get("key"): str(item.get("value")) for item in items}
        scripts[name] = given.get("startup-script", "")
    yield from check_first_scripts(file, scripts, "metadata.items startup-script")


def disks(file: ClusterFile) -> Iterator[str]:
    images: set[str] = set()
    for name, node in file.node_configs.items():
        for disk in node.get("disks", []):
            images.add(str(disk.get("initializeParams", {}).get("sourceImage")))
            if disk.get("autoDelete") is not True:
                yield f"{name}: a disk without autoDelete is billed after its node is gone"
    if len(images) != 1:
        yield f"sourceImage: found {', '.join(sorted(images))}; every node needs the same image"


def network(file: ClusterFile) -> Iterator[str]:
    """The default network lets SSH in from every address, and Ray would take it."""
    for name, node in file.node_configs.items():
        subnets = [str(card.get("subnetwork")) for card in node.get("networkInterfaces", [])]
        if not subnets or any(subnet.endswith(("None", "/default")) for subnet in subnets):
            yield f"{name}: networkInterfaces must name a subnetwork of your own"


def account(file: ClusterFile) -> Iterator[str]:
    for name in file.workers:
        if not file.node_configs[name].get("serviceAccounts"):
            yield f"{name} has no serviceAccounts: it could not reach the bucket"


def labels(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        if not node.get("labels"):
            yield f"{name} has no labels, by which the bill can be split"


RULES: tuple[Rule, ...] = (
    *(node_config_keys, place, spot, one_worker_type, maintenance, shutdown, disks, network),
    *(account, labels),
)
