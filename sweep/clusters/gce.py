"""The parameters of Compute Engine's instances.insert that a node's `node_config` may hold.

Source: the schemas Instance, AttachedDisk and Scheduling of Google's API description compute v1.
"""

from __future__ import annotations

from sweep.clusters.parameters import tree

# `sourceInstanceTemplate` is Ray's own; see sweep.clusters.ec2 for the dots.
PARAMETERS = """
advancedMachineFeatures canIpForward confidentialInstanceConfig deletionProtection description
displayDevice guestAccelerators.acceleratorCount guestAccelerators.acceleratorType hostname
keyRevocationActionType labels machineType metadata.items minCpuPlatform
networkPerformanceConfig params reservationAffinity resourcePolicies sourceInstanceTemplate
sourceMachineImage tags.items
networkInterfaces.accessConfigs networkInterfaces.aliasIpRanges networkInterfaces.network
networkInterfaces.nicType networkInterfaces.stackType networkInterfaces.subnetwork
disks.autoDelete disks.boot disks.deviceName disks.diskSizeGb disks.index disks.interface
disks.mode disks.source disks.type
disks.initializeParams.diskName disks.initializeParams.diskSizeGb disks.initializeParams.diskType
disks.initializeParams.labels disks.initializeParams.provisionedIops
disks.initializeParams.provisionedThroughput disks.initializeParams.sourceImage
disks.initializeParams.sourceSnapshot
scheduling.automaticRestart scheduling.instanceTerminationAction scheduling.maxRunDuration
scheduling.nodeAffinities scheduling.onHostMaintenance scheduling.onInstanceStopAction
scheduling.preemptible scheduling.provisioningModel scheduling.terminationTime
serviceAccounts.email serviceAccounts.scopes
shieldedInstanceConfig.enableIntegrityMonitoring shieldedInstanceConfig.enableSecureBoot
shieldedInstanceConfig.enableVtpm
"""

NODE_CONFIG = tree(PARAMETERS)
