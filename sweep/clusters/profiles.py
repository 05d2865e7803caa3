"""The instance profiles of head and workers: what each may do, and what of them is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

GROUP = "distilsweep"
PROFILES = {"head": "distilsweep-head", "worker": "distilsweep-worker"}
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


def lacking(iam: Any, name: str, rights: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """{piece of an instance profile that is not as it has to be: the call that makes it so}.

    rights: the policy of its role. Raises: ClientError where AWS refuses a look.
    """

    def found(call: Callable[..., Any], key: str, **arguments: str) -> Any:
        with suppress(iam.exceptions.NoSuchEntityException):
            return call(**arguments)[key]
        return None

    profile = found(iam.get_instance_profile, "InstanceProfile", InstanceProfileName=name)
    role = found(iam.get_role, "Role", RoleName=name)
    has = found(iam.get_role_policy, "PolicyDocument", RoleName=name, PolicyName=name)
    trust = json.dumps(TRUST)
    pieces: dict[str, Callable[[], Any]] = {}
    if profile is None:
        pieces["the profile"] = partial(iam.create_instance_profile, InstanceProfileName=name)
    if role is None:
        pieces["a role"] = partial(iam.create_role, RoleName=name, AssumeRolePolicyDocument=trust)
    elif role["AssumeRolePolicyDocument"] != TRUST:
        pieces["the role's trust in EC2"] = partial(
            iam.update_assume_role_policy, RoleName=name, PolicyDocument=trust
        )
    if has != rights:
        pieces["the role's policy" + (", in place of another" if has else "")] = partial(
            iam.put_role_policy, RoleName=name, PolicyName=name, PolicyDocument=json.dumps(rights)
        )
    if profile is None or name not in [role["RoleName"] for role in profile["Roles"]]:
        pieces["the role in it"] = partial(
            iam.add_role_to_instance_profile, InstanceProfileName=name, RoleName=name
        )
    return pieces
