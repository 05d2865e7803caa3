"""The parameters of EC2 RunInstances that a node's `node_config` may hold."""

from __future__ import annotations

from sweep.clusters.parameters import tree

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

NODE_CONFIG = tree(PARAMETERS)
