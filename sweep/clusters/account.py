"""What an AWS account has of what cluster.yaml needs: looked up, checked, and made on request.

Every look is one call whose failure is one line: an account may be allowed to start machines and
not to read quotas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sweep.clusters.profiles import GROUP, PROFILES, lacking, policy

IMAGE = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)*"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
SPOT = "Spot Instance Requests"
# {name of a quota: (its code, how the instance types with a GPU begin that it counts)}.
QUOTAS = {
    f"All G and VT {SPOT}": ("L-3819A6DF", ("g",)),
    "Running On-Demand G and VT instances": ("L-DB2E81BA", ("g",)),
    f"All P4, P3 and P2 {SPOT}": ("L-7212CCBC", ("p2", "p3", "p4")),
    f"All P5 {SPOT}": ("L-C4BD4855", ("p5",)),
    "Running On-Demand P instances": ("L-417A185B", ("p",)),
}


@dataclass
class Account:
    """An account in one region. notes: lines on what was found, is missing or was not checked."""

    region: str
    notes: list[str] = field(default_factory=list)

    def client(self, service: str) -> Any:
        """Raises: ValueError where boto3 is missing."""
        try:
            import boto3
        except ImportError:
            raise ValueError("no boto3; pip install -c constraints.txt '.[aws]'") from None
        return boto3.Session(region_name=self.region).client(service)

    def look(
        self, what: str, call: Callable[[], Any], missing: str = "", refused: str = "not checked:"
    ) -> Any:
        """What `call` returns; None with a note where AWS refuses it or the thing does not exist.

        missing: what to say where it does not exist. refused: how the note on a refusal begins.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if missing and any(sign in code for sign in ("404", "NoSuch", "NotFound")):
                self.notes.append(f"missing:     {missing}")
            else:
                self.notes.append(f"{refused:<13}{what} ({code})")
        except BotoCoreError as error:
            self.notes.append(f"{refused:<13}{what} ({' '.join(str(error).split())})")
        return None

    def make(self, what: str, pieces: dict[str, Callable[[], Any]], create: bool) -> Any:
        """What the last call returned; None where one was refused, or with `create` off.

        pieces: {piece that is missing or not as it has to be: call that makes it}.
        """
        if not create:
            self.notes.append(f"missing:     {what}: {', '.join(pieces)}; make it with --create")
            return None
        made = None
        for piece, call in pieces.items():
            made = self.look(f"{what}: {piece}", call, refused="not made:")
            if made is None:
                return None
        self.notes.append(f"made:        {what}: {', '.join(pieces)}")
        return made

    def credentials(self) -> str:
        """Who one is. Raises: ValueError where there are no valid credentials."""
        found = self.look("credentials", self.client("sts").get_caller_identity)
        if found is None:
            raise ValueError(f"{self.notes[-1].partition(': ')[2].strip()}; run `aws configure`")
        self.notes.append(f"account:     {found['Arn']}")
        return found["Account"]

    def image(self, name: str) -> str | None:
        """Id of Amazon's or one's own newest image with this name, in which * is anything."""
        call = self.client("ec2").describe_images
        filters = [
            {"Name": "name", "Values": [re.sub("[()]", "?", name)]},
            {"Name": "state", "Values": ["available"]},
        ]
        found = self.look("image", lambda: call(Owners=["amazon", "self"], Filters=filters))
        every = (found or {}).get("Images", [])
        images = [image for image in every if image.get("Architecture") != "arm64"]
        images.sort(key=lambda image: image["CreationDate"])
        if not images:
            if found is not None:
                self.notes.append(f"missing:     an image named `{name}` in {self.region}")
            return None
        newest = images[-1]
        self.notes.append(f"image:       {newest['ImageId']} {newest['Name']}")
        if (device := newest.get("RootDeviceName")) not in (None, "/dev/sda1"):
            self.notes.append(f"wrong:       its disk is {device}; the file says /dev/sda1")
        return newest["ImageId"]

    def sizes(self, types: Sequence[str]) -> tuple[list[int], int]:
        """(vCPUs of each, GPUs of every one) of instance types.

        Raises: ValueError for an unknown type, one without a GPU, and types with several GPUs.
        """
        ec2 = self.client("ec2")
        found = {}
        for kind in types:
            missing = f"instance type {kind} in {self.region}"
            answer = self.look(
                missing, lambda kind=kind: ec2.describe_instance_types(InstanceTypes=[kind])
            )
            if answer is None:
                reason = self.notes.pop().partition(": ")[2].strip()
                raise ValueError(f"--worker-type {kind}: {reason}")
            found[kind] = answer["InstanceTypes"][0]
        gpus = {}
        for kind, description in found.items():
            listed = description.get("GpuInfo", {}).get("Gpus", [])
            if not listed:
                raise ValueError(f"--worker-type {kind}: it has no GPU")
            gpus[kind] = (listed[0]["Name"], sum(gpu["Count"] for gpu in listed))
        if len(set(gpus.values())) > 1:
            text = ", ".join(f"{kind} {count} {name}" for kind, (name, count) in gpus.items())
            raise ValueError(
                f"--worker-type: {text}; results could differ by the GPU: choose types with one"
            )
        cpus = [kind["VCpuInfo"]["DefaultVCpus"] for kind in found.values()]
        return cpus, next(iter(gpus.values()))[1]

    def zones(self, types: Sequence[str]) -> list[str]:
        """Zones of the region that offer any of the instance types, or those that there are."""
        ec2 = self.client("ec2")
        filters = [{"Name": "instance-type", "Values": list(types)}]
        call = ec2.describe_instance_type_offerings
        found = self.look(
            "zones that offer the instance types",
            lambda: call(LocationType="availability-zone", Filters=filters),
        )
        offers = (found or {}).get("InstanceTypeOfferings", [])
        return sorted({offer["Location"] for offer in offers})

    def bucket(self, name: str, create: bool) -> None:
        s3 = self.client("s3")
        missing = f"bucket {name}; make it with --create"
        if self.look(f"bucket {name}", lambda: s3.head_bucket(Bucket=name), missing) is not None:
            where = self.look("its region", lambda: s3.get_bucket_location(Bucket=name))
            region = (where or {}).get("LocationConstraint") or "us-east-1"
            if where is not None and region != self.region:
                self.notes.append(f"wrong:       bucket {name} is in {region}: traffic is billed")
            else:
                self.notes.append(f"bucket:      {name}")
        elif create and self.notes[-1].endswith(missing):
            del self.notes[-1]
            where = {"LocationConstraint": self.region}
            extra = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": where}
            closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy")
            closed += ("RestrictPublicBuckets",)
            access = dict.fromkeys(closed, True)
            pieces = {
                "the bucket": partial(s3.create_bucket, Bucket=name, **extra),
                "no public access": partial(
                    s3.put_public_access_block, Bucket=name, PublicAccessBlockConfiguration=access
                ),
            }
            self.make(f"bucket {name}", pieces, create)

    def group(self, address: str, create: bool) -> str | None:
        """Id of the security group; what it lets in besides SSH from `address` is a note."""
        ec2 = self.client("ec2")
        filters = [{"Name": "group-name", "Values": [GROUP]}]
        found = self.look("group", lambda: ec2.describe_security_groups(Filters=filters))
        if found is None:
            return None
        if groups := found["SecurityGroups"]:
            group = groups[0]
            for line in opened(group, address):
                self.notes.append(f"wrong:       security group {GROUP}: {line}")
            self.notes.append(f"group:       {group['GroupId']} {GROUP}")
        else:
            call = partial(ec2.create_security_group, GroupName=GROUP, Description="distilsweep")
            made = self.make(f"security group {GROUP}", {"the group": call}, create)
            if made is None:
                return None
            group = {"GroupId": made["GroupId"], "IpPermissions": []}
        call = partial(ec2.authorize_security_group_ingress, GroupId=group["GroupId"])
        closed = {
            name: partial(call, IpPermissions=[rule]) for name, rule in closed_to(group, address)
        }
        if closed:
            self.make(f"security group {GROUP}", closed, create)
        return group["GroupId"]

    def profiles(self, bucket: str, account: str, create: bool) -> None:
        """The instance profiles, each with its role, and with what this bucket needs in that."""
        iam = self.client("iam")
        name_of_bucket = bucket.partition("/")[0]
        for role, name in PROFILES.items():
            what = f"instance profile {name}"
            rights = policy(role, name_of_bucket, account)
            pieces = self.look(what, partial(lacking, iam, name, rights))
            if pieces:
                self.make(f"{what} for {name_of_bucket}", pieces, create)
            elif pieces is not None:
                self.notes.append(f"profile:     {name} for {name_of_bucket}")
        missing = f"role {SPOT_ROLE}: aws iam create-service-linked-role --aws-service-name "
        missing += "spot.amazonaws.com"
        self.look(f"role {SPOT_ROLE}", lambda: iam.get_role(RoleName=SPOT_ROLE), missing)

    def quotas(self, kind: str, vcpus: int) -> None:
        """Whether `vcpus` of instance type `kind` may run; a quota counts vCPUs."""
        quotas = self.client("service-quotas")
        counted = {name: code for name, (code, kinds) in QUOTAS.items() if kind.startswith(kinds)}
        if not any(SPOT in name for name in counted):
            self.notes.append(f"not checked: quota of spot machines {kind}: its name is not known")
        for name, code in counted.items():
            found = self.look(
                f'quota "{name}"; {vcpus} vCPUs are needed',
                lambda code=code: quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code),
            )
            if found is None:
                continue
            value = found["Quota"]["Value"]
            sign = "quota:       " if value >= vcpus else "wrong:       quota "
            self.notes.append(f'{sign}"{name}" is {value:g} vCPUs; {vcpus} are needed')

    def key(self, name: str) -> None:
        ec2 = self.client("ec2")
        missing = f"key pair {name} in {self.region}"
        call = ec2.describe_key_pairs
        if self.look(f"key pair {name}", lambda: call(KeyNames=[name]), missing):
            self.notes.append(f"key:         {name}")


def opened(group: dict[str, Any], address: str) -> Iterator[str]:
    """What a security group lets in, besides its own members and SSH from `address`."""
    for rule in group["IpPermissions"]:
        ports = f"{rule.get('IpProtocol')} {rule.get('FromPort')}-{rule.get('ToPort')}"
        for source in [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]:
            found = source.get("CidrIp") or source.get("CidrIpv6")
            if (ports, found) != ("tcp 22-22", address):
                yield f"it lets {found} in on {ports}; expected SSH from {address} alone"


def closed_to(group: dict[str, Any], address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what a security group has to let in and does not, the rule that lets it in)."""
    rules = group["IpPermissions"]
    ssh = [rule for rule in rules if rule.get("FromPort") == 22 == rule.get("ToPort")]
    if address not in [source["CidrIp"] for rule in ssh for source in rule.get("IpRanges", [])]:
        ports = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        yield f"SSH from {address}", {**ports, "IpRanges": [{"CidrIp": address}]}
    pairs = [rule.get("UserIdGroupPairs", []) for rule in rules if rule["IpProtocol"] == "-1"]
    if group["GroupId"] not in [pair.get("GroupId") for every in pairs for pair in every]:
        members = [{"GroupId": group["GroupId"]}]
        yield "connections from itself", {"IpProtocol": "-1", "UserIdGroupPairs": members}
