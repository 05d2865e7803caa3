"""What an AWS account has of what cluster.yaml needs: looked up, checked, and made on request.

Every look is one call whose failure is one line: an account may be allowed to start machines and
not to read quotas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

GROUP = "distilsweep"
PROFILES = {"head": "distilsweep-head", "worker": "distilsweep-worker"}
IMAGE = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)*"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
# {name of the quota: its code} for the families of instances with a GPU: spot, on demand.
QUOTAS = {
    "g": {
        "All G and VT Spot Instance Requests": "L-3819A6DF",
        "Running On-Demand G and VT instances": "L-DB2E81BA",
    },
    "p": {
        "All P Spot Instance Requests": "L-7212CCBC",
        "Running On-Demand P instances": "L-417A185B",
    },
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
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

    def look(self, what: str, call: Callable[[], Any], missing: str = "") -> Any:
        """What `call` returns; None with a note where AWS refuses it or the thing does not exist.

        missing: what to say where it does not exist.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if missing and any(sign in code for sign in ("404", "NoSuch", "NotFound")):
                self.notes.append(f"missing:     {missing}")
            else:
                self.notes.append(f"not checked: {what} ({code})")
        except BotoCoreError as error:
            self.notes.append(f"not checked: {what} ({' '.join(str(error).split())})")
        return None

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

    def sizes(self, types: Sequence[str]) -> tuple[int, int]:
        """(vCPUs of the smallest, GPUs of each) of instance types.

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
        cpus = min(kind["VCpuInfo"]["DefaultVCpus"] for kind in found.values())
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
            where = {"LocationConstraint": self.region}
            extra = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": where}
            s3.create_bucket(Bucket=name, **extra)
            closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy")
            closed += ("RestrictPublicBuckets",)
            s3.put_public_access_block(
                Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(closed, True)
            )
            self.notes[-1] = f"made:        bucket {name}, without public access"

    def group(self, address: str, create: bool) -> str | None:
        """Id of the security group; what it lets in besides SSH from `address` is a note."""
        ec2 = self.client("ec2")
        filters = [{"Name": "group-name", "Values": [GROUP]}]
        found = self.look("group", lambda: ec2.describe_security_groups(Filters=filters))
        groups = (found or {}).get("SecurityGroups", [])
        if groups:
            for line in opened(groups[0], address):
                self.notes.append(f"wrong:       security group {GROUP}: {line}")
            self.notes.append(f"group:       {groups[0]['GroupId']} {GROUP}")
            return groups[0]["GroupId"]
        if not create:
            self.notes.append(f"missing:     security group {GROUP}; make it with --create")
            return None
        made = ec2.create_security_group(GroupName=GROUP, Description="distilsweep")["GroupId"]
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        ec2.authorize_security_group_ingress(
            GroupId=made,
            IpPermissions=[
                {**ssh, "IpRanges": [{"CidrIp": address}]},
                {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": made}]},
            ],
        )
        self.notes.append(f"made:        security group {made} {GROUP}, SSH from {address}")
        return made

    def profiles(self, bucket: str, account: str, create: bool) -> None:
        iam = self.client("iam")
        for role, name in PROFILES.items():
            missing = f"instance profile {name}; make it with --create"
            call = iam.get_instance_profile
            found = self.look(
                f"instance profile {name}",
                lambda name=name, call=call: call(InstanceProfileName=name),
                missing,
            )
            if found is not None:
                self.notes.append(f"profile:     {name}")
            elif create and self.notes[-1].endswith(missing):
                iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
                text = json.dumps(policy(role, bucket.partition("/")[0], account))
                iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=text)
                iam.create_instance_profile(InstanceProfileName=name)
                iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
                self.notes[-1] = f"made:        instance profile {name}"
        missing = f"role {SPOT_ROLE}: aws iam create-service-linked-role --aws-service-name "
        missing += "spot.amazonaws.com"
        self.look(f"role {SPOT_ROLE}", lambda: iam.get_role(RoleName=SPOT_ROLE), missing)

    def quotas(self, kind: str, vcpus: int) -> None:
        """Whether `vcpus` of instance type `kind` may run; a quota counts vCPUs."""
        quotas = self.client("service-quotas")
        for name, code in QUOTAS.get(kind[0], {}).items():
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


def policy(role: str, bucket: str, account: str) -> dict[str, Any]:
    """What a node may do: the bucket, and for the head to start, tag and end machines."""
    objects = ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")
    rules: list[dict[str, Any]] = [
        {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
        {"Action": [f"s3:{name}" for name in objects], "Resource": f"arn:aws:s3:::{bucket}/*"},
    ]
    if role == "head":
        tagged = {"StringEquals": {"aws:ResourceTag/project": GROUP}}
        worker = f"arn:aws:iam::{account}:role/{PROFILES['worker']}"
        rules += [
            {"Action": ["ec2:RunInstances", "ec2:CreateTags", "ec2:Describe*"], "Resource": "*"},
            # Only machines of this project: the tag stands in cluster.yaml.
            {"Action": "ec2:TerminateInstances", "Resource": "*", "Condition": tagged},
            {"Action": "iam:PassRole", "Resource": worker},
        ]
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **rule} for rule in rules]}
