"""Rules for AWS: spot machines, tags, images, who may connect, and what is never stopped only."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sweep.clusters.billed import check_first_scripts, check_markets
from sweep.clusters.cluster_file import ClusterFile, Rule
from sweep.clusters.ec2 import NODE_CONFIG
from sweep.clusters.parameters import unknown_parameters

CALL = "EC2's RunInstances"
ORDER = {  # setting of the head: why
    "RAY_enable_autoscaler_v2=0": "only Ray's older autoscaler takes an order of launches",
    "RAY_AUTOSCALER_UTILIZATION_SCORER=sweep.running.launch_order.score": (
        "where EC2 has no capacity for one node type, no other one would be launched"
    ),
    "AUTOSCALER_MAX_NUM_FAILURES=1000000": "the autoscaler would end after its sixth error",
}


def node_config_keys(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        yield from unknown_parameters(node, f"{name}.node_config", NODE_CONFIG, CALL)


def tags(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        tagged = {entry.get("ResourceType") for entry in node.get("TagSpecifications", [])}
        if not {"instance", "volume"} <= tagged:
            yield f"{name}: TagSpecifications must tag instance and volume; found {sorted(tagged)}"


def image(file: ClusterFile) -> Iterator[str]:
    images = {str(node.get("ImageId")) for node in file.node_configs.values()}
    if len(images) != 1 or not next(iter(images)).startswith("ami-"):
        found = ", ".join(sorted(images))
        yield f"ImageId: found {found}; every node needs the same ami-..., Ray's default is too old"


def ssh_rule(file: ClusterFile) -> Iterator[str]:
    """SSH from one address only.

    To a security group that Ray makes itself it always adds SSH from everywhere, whatever rules
    are listed in the file. So the group has to be the user's, by its id.
    """
    if "security_group" in file.config["provider"]:
        yield "provider.security_group: Ray would add SSH from everywhere; use SecurityGroupIds"
    for name, node in file.node_configs.items():
        if not node.get("SecurityGroupIds"):
            yield f"{name} has no SecurityGroupIds: Ray would make a group open to everyone"
        if "NetworkInterfaces" in node:
            yield f"{name}: NetworkInterfaces would replace SecurityGroupIds; remove them"
    # The commands that make the group stand in comments, which users paste.
    joined = re.sub(r"\\\n#\s*", "", file.text)
    for line in re.findall(r"authorize-security-group-ingress.*", joined):
        from_group = "--source-group sg-" in line and "--cidr" not in line
        from_user = "--protocol tcp --port 22 --cidr" in line and re.search(r'/32"?\s*$', line)
        if not from_group and not from_user:
            yield f"allow port 22 from one address (/32), or the group itself; found: {line}"


def zones(file: ClusterFile) -> Iterator[str]:
    provider = file.config["provider"]
    names = [zone.strip() for zone in provider.get("availability_zone", "").split(",")]
    region = provider.get("region")
    # Spot capacity differs by zone: with one zone alone, a shortage there stops the sweep.
    if len(set(names)) < 2 or any(zone[:-1] != region for zone in names):
        yield f"availability_zone must list two or more zones of {region}; found {names}"


def no_stopped_nodes(file: ClusterFile) -> Iterator[str]:
    if file.config["provider"].get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes must be False: the disks of stopped nodes are billed"


def spot(file: ClusterFile) -> Iterator[str]:
    markets = {
        name: (node.get("InstanceMarketOptions") or {}).get("MarketType")
        for name, node in file.node_configs.items()
    }
    for name, market in markets.items():
        if market not in ("spot", None):
            yield f"{name}: InstanceMarketOptions.MarketType: {market}; expected spot"
    marked = {name for name, market in markets.items() if market is not None}
    yield from check_markets(file, marked, "InstanceMarketOptions.MarketType must be spot")


def launch_order(file: ClusterFile) -> Iterator[str]:
    """Of several types Ray's newer autoscaler launches the one it prefers, for ever if refused.

    The older one takes an order, but ends after a few errors: idle workers would then be billed on.
    """
    before = file.start_commands["head_start_ray_commands"].partition("ray start")[0]
    exported = before.partition("export")[2].partition(";")[0].split()
    for setting, why in ORDER.items():
        if setting not in exported and len(file.workers) > 1:
            yield f"head_start_ray_commands: export {setting} before ray start: {why}"


def shutdown(file: ClusterFile) -> Iterator[str]:
    """Workers that shut themselves down are not billed after that."""
    for name, node in file.workers.items():
        if node["node_config"].get("InstanceInitiatedShutdownBehavior") != "terminate":
            yield f"{name}: InstanceInitiatedShutdownBehavior must be terminate: disks are billed"
    scripts = {name: str(node.get("UserData")) for name, node in file.node_configs.items()}
    yield from check_first_scripts(file, scripts, "UserData")


def roles(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions.HttpTokens must be required"
        if not node.get("IamInstanceProfile"):
            yield f"{name} has no IamInstanceProfile: Ray's own has full access, workers have none"


def disks(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        for disk in node.get("BlockDeviceMappings", []):
            if disk["Ebs"].get("DeleteOnTermination") is not True:
                yield f"{name}: a disk without DeleteOnTermination is billed after its node is gone"


RULES: tuple[Rule, ...] = (
    *(node_config_keys, spot, launch_order, shutdown, tags, image, ssh_rule, zones),
    *(no_stopped_nodes, roles, disks),
)
