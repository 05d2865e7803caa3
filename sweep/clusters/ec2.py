"""The parameters of EC2 RunInstances that a node's `node_config` may hold.

Ray passes `node_config` on without looking into it, so a misspelt parameter is only found when
the first worker fails to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shards.support.registry import closest

# `SubnetIds` is Ray's own; all others are RunInstances'. Where names follow a dot, the parameter
# before the dot may hold these and nothing else; a parameter listed alone may hold anything.
PARAMETERS = """
CapacityReservationSpecification CpuOptions CreditSpecification DisableApiStop EbsOptimized
DisableApiTermination EnclaveOptions HibernationOptions IamInstanceProfile.Arn
IamInstanceProfile.Name ImageId InstanceInitiatedShutdownBehavior InstanceType Ipv6AddressCount
KeyName LaunchTemplate LicenseSpecifications MaintenanceOptions Monitoring NetworkInterfaces
NetworkPerformanceOptions Placement PrivateDnsNameOptions SecurityGroupIds SubnetIds
TagSpecifications UserData
InstanceMarketOptions.MarketType InstanceMarketOptions.SpotOptions.MaxPrice
InstanceMarketOptions.SpotOptions.SpotInstanceType InstanceMarketOptions.SpotOptions.ValidUntil
InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior
MetadataOptions.HttpEndpoint MetadataOptions.HttpProtocolIpv6 MetadataOptions.HttpTokens
MetadataOptions.HttpPutResponseHopLimit MetadataOptions.InstanceMetadataTags
BlockDeviceMappings.DeviceName BlockDeviceMappings.NoDevice BlockDeviceMappings.VirtualName
BlockDeviceMappings.Ebs.DeleteOnTermination BlockDeviceMappings.Ebs.Encrypted
BlockDeviceMappings.Ebs.Iops BlockDeviceMappings.Ebs.KmsKeyId BlockDeviceMappings.Ebs.SnapshotId
BlockDeviceMappings.Ebs.Throughput BlockDeviceMappings.Ebs.VolumeSize
BlockDeviceMappings.Ebs.VolumeType
"""

Tree = dict[str, "Tree"]


def _tree(names: str) -> Tree:
    """`"A.B A.C D"` -> `{"A": {"B": {}, "C": {}}, "D": {}}`."""
    tree: Tree = {}
    for name in names.split():
        branch = tree
        for key in name.split("."):
            branch = branch.setdefault(key, {})
    return tree


NODE_CONFIG = _tree(PARAMETERS)


def unknown_parameters(value: Any, path: str, known: Tree = NODE_CONFIG) -> Iterator[str]:
    """One message for each key of `value`, at any depth, that RunInstances does not have."""
    if isinstance(value, list):
        for item in value:
            yield from unknown_parameters(item, path, known)
    elif isinstance(value, dict) and known:
        for key, inner in value.items():
            if key in known:
                yield from unknown_parameters(inner, f"{path}.{key}", known[key])
            else:
                yield f"{path}.{key} is no EC2 RunInstances parameter; {closest(key, list(known))}"
