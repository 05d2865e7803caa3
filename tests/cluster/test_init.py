"""`sweep.cluster init` against a server of AWS's protocol, and against hosts that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.cluster import main
from sweep.clusters.account import Account, opened
from sweep.clusters.rules import check
from tests.s3_server import serve_bucket

boto3 = pytest.importorskip("boto3")
ClientError = pytest.importorskip("botocore.exceptions").ClientError
pytestmark = [pytest.mark.cluster, pytest.mark.store]
ROOT = Path(__file__).parents[2]
REGION = "us-west-2"
NAME = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20260801"


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    with serve_bucket("in-another-region"):
        yield


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


def init(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    target = ["--to", str(tmp_path / "filled.yaml"), "--ssh-from", "203.0.113.7"]
    with pytest.raises(SystemExit) as ended:
        main(["init", *target, "--bucket", "my-bucket", *options])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


@pytest.mark.usefixtures("aws")
def test_it_makes_what_is_missing_and_fills_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = init(tmp_path, capsys, "--image", "nothing like it")
    assert code == 1  # with lines that say what is left
    for line in (
        "missing:     bucket my-bucket; make it with --create",
        "missing:     security group distilsweep: the group; make it with --create",
        "missing:     instance profile distilsweep-head for my-bucket: the profile, a role, the "
        "role's policy, the role in it; make it with --create",
        f"missing:     an image named `nothing like it` in {REGION}",
        "missing:     role AWSServiceRoleForEC2Spot",
        'not checked: quota "All G and VT Spot Instance Requests"; 32 vCPUs are needed',
    ):
        assert line in text
    assert "not ready: line 23: image: &image ami-FILL-IN" in text
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    secret = token.read_text()
    assert secret not in text

    ec2 = client("ec2")
    for name in (NAME, "Deep Learning Base other"):
        ec2.register_image(Name=name, Architecture="x86_64", RootDeviceName="/dev/sda1")
    code, text = init(tmp_path, capsys, "--create", "--worker-type", "g6.xlarge,g6.2xlarge")
    assert code == 0, text
    assert 'quota "All G and VT Spot Instance Requests"; 64 vCPUs are needed' in text  # 8 x 8
    assert token.read_text() == secret
    filled = (tmp_path / "filled.yaml").read_text()
    assert "FILL-IN" not in "".join(
        line for line in filled.splitlines() if not line.startswith("#")
    )
    assert check(filled, ROOT) == []
    config = yaml.safe_load(filled)
    assert config["available_node_types"]["spot_gpu"]["resources"] == {"CPU": 4, "GPU": 1}
    spot = config["available_node_types"]["spot_gpu"]["node_config"]
    (image,) = (
        image for image in ec2.describe_images(Owners=["self"])["Images"] if image["Name"] == NAME
    )
    assert spot["ImageId"] == image["ImageId"]
    types = config["available_node_types"]
    assert types["spot_gpu_g6_2xlarge"]["node_config"]["InstanceType"] == "g6.2xlarge"
    assert set(config["provider"]["availability_zone"].split(",")) <= {
        f"{REGION}{letter}" for letter in "abcd"
    }
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))

    (group,) = ec2.describe_security_groups(GroupIds=spot["SecurityGroupIds"])["SecurityGroups"]
    assert list(opened(group, "203.0.113.7/32")) == []
    assert len(group["IpPermissions"]) == 2
    s3 = client("s3")
    assert all(
        s3.get_public_access_block(Bucket="my-bucket")["PublicAccessBlockConfiguration"].values()
    )
    for role, may_start in (("head", True), ("worker", False)):
        name = f"distilsweep-{role}"
        policy = client("iam").get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"]
        assert ("ec2:RunInstances" in str(policy)) is may_start
        assert "arn:aws:s3:::my-bucket/*" in str(policy)

    code, text = init(tmp_path, capsys)
    assert code == 0
    for found in ("bucket:      my-bucket", f"image:       {image['ImageId']}", "profile:     "):
        assert found in text
    assert "made:" not in text
    ec2.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=8265, ToPort=8265, CidrIp="0.0.0.0/0"
    )
    assert "it lets 0.0.0.0/0 in on tcp 8265-8265" in init(tmp_path, capsys)[1]


WORKER = "distilsweep-worker"


def profile(bucket: str, create: bool) -> list[str]:
    """What is said of the workers' instance profile."""
    account = Account(REGION)
    account.profiles(bucket, "123456789012", create)
    return [note for note in account.notes if WORKER in note]


@pytest.mark.usefixtures("aws")
def test_an_instance_profile_is_compared_and_mended() -> None:
    iam = client("iam")

    def rights() -> str:
        return str(iam.get_role_policy(RoleName=WORKER, PolicyName=WORKER)["PolicyDocument"])

    # What a command that failed in its middle has left, of a role that EC2 may not use.
    with suppress(ClientError):
        iam.create_role(RoleName=WORKER, AssumeRolePolicyDocument="{}")
    profile("my-bucket", create=True)
    assert "ec2.amazonaws.com" in str(iam.get_role(RoleName=WORKER)["Role"])
    assert "arn:aws:s3:::my-bucket/*" in rights()

    place = f"instance profile {WORKER} for"
    other = f"{place} bucket-two: the role's policy, in place of another"
    assert profile("bucket-two", create=False) == [f"missing:     {other}; make it with --create"]
    assert "bucket-two" not in rights()
    assert profile("bucket-two/sweep", create=True) == [f"made:        {other}"]
    assert "arn:aws:s3:::bucket-two/*" in rights()
    assert profile("bucket-two", create=True) == [f"profile:     {WORKER} for bucket-two"]

    iam.remove_role_from_instance_profile(InstanceProfileName=WORKER, RoleName=WORKER)
    empty = f"{place} bucket-two: the role in it"
    assert profile("bucket-two", create=False) == [f"missing:     {empty}; make it with --create"]
    iam.create_role(RoleName="other", AssumeRolePolicyDocument="{}")
    iam.add_role_to_instance_profile(InstanceProfileName=WORKER, RoleName="other")
    assert profile("bucket-two", create=True) == [f"not made:    {empty} (LimitExceeded)"]
    iam.remove_role_from_instance_profile(InstanceProfileName=WORKER, RoleName="other")
    assert profile("bucket-two", create=True) == [f"made:        {empty}"]


@pytest.mark.usefixtures("aws")
def test_a_security_group_that_lets_nobody_in_is_said_and_mended() -> None:
    ec2 = client("ec2")

    def said(create: bool) -> list[str]:
        account = Account(REGION)
        account.group("203.0.113.7/32", create)
        return [note for note in account.notes if not note.startswith("group: ")]

    said(create=True)
    named = [{"Name": "group-name", "Values": ["distilsweep"]}]
    (group,) = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    ec2.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
    )
    closed = "security group distilsweep: SSH from 203.0.113.7/32, connections from itself"
    assert said(create=False) == [f"missing:     {closed}; make it with --create"]
    assert said(create=True) == [f"made:        {closed}"]
    assert said(create=False) == []


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("kind", "quotas"),
    [
        ("gr6.4xlarge", ("All G and VT Spot", "Running On-Demand G and VT")),
        ("p4d.24xlarge", ("All P4, P3 and P2 Spot", "Running On-Demand P")),
        ("p5en.48xlarge", ("All P5 Spot", "Running On-Demand P")),
        ("p6-b200.48xlarge", ("of spot machines p6-b200.48xlarge", "Running On-Demand P")),
    ],
)
def test_quotas_are_those_that_count_the_type(kind: str, quotas: tuple[str, ...]) -> None:
    account = Account(REGION)
    account.quotas(kind, 192)
    assert len(account.notes) == len(quotas)
    for note, name in zip(account.notes, quotas, strict=True):
        assert note.startswith("not checked: quota ")  # the server has no quotas of EC2
        assert name in note


@pytest.mark.usefixtures("aws")
def test_a_bucket_elsewhere_is_said() -> None:
    account = Account(REGION)
    account.bucket("in-another-region", create=False)
    assert account.notes == [
        "wrong:       bucket in-another-region is in us-east-1: traffic is billed"
    ]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--worker-type", "g6.xlrge"), "--worker-type g6.xlrge: "),
        (("--worker-type", "m6i.xlarge"), "--worker-type m6i.xlarge: it has no GPU"),
        (("--worker-type", "g6.xlarge,g5.xlarge"), "results could differ by the GPU"),
        (("--max-workers", "0"), "--max-workers 0: expected a whole number above 0"),
        (("--ssh-from", "0.0.0.0/0"), "--ssh-from 0.0.0.0/0: expected one IPv4 address"),
        (("--ssh-from", "2001:db8::7"), "--ssh-from 2001:db8::7: expected one IPv4 address"),
        (("--bucket", "My-Bucket"), "--bucket My-Bucket: expected BUCKET or BUCKET/PREFIX"),
    ],
)
def test_a_wrong_answer_is_one_line_and_nothing_is_written(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = init(tmp_path, capsys, *options)
    assert code == 2
    assert text.startswith("error: ")
    assert said in text
    assert text.count("\n") == 1
    assert not (tmp_path / "filled.yaml").exists()
    assert not (tmp_path / ".ray").exists()


def test_without_credentials_it_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, text = init(tmp_path, capsys)
    assert code == 2
    assert "credentials" in text
    assert "run `aws configure`" in text


def test_a_file_that_it_cannot_fill_in_names_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "clusters/gcp.yaml"])
    assert "search for FILL-IN" in capsys.readouterr().err


def test_a_host_that_does_not_answer_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(f"Host *\n  Port {closed}\n")
    target = tmp_path / "filled.yaml"
    options = [
        "--head",
        "127.0.0.2",
        "--workers",
        "127.0.0.3",
        "--user",
        "me",
        "--store",
        "/shared",
    ]
    with pytest.raises(SystemExit):
        main(["init", "clusters/local.yaml", "--to", str(target), *options])
    text = capsys.readouterr().out
    assert "host:        127.0.0.3: no SSH: " in text
    assert "every other machine would take this address for itself" in text  # 127.0.0.2
    assert yaml.safe_load(target.read_text())["provider"]["worker_ips"] == ["127.0.0.3"]
