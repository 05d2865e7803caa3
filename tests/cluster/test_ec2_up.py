"""`ray up cluster.yaml` against a server of EC2's protocol, with a host for every instance.

Ray's own provider and autoscaler make all calls of EC2. What is not as on AWS: instances are hosts
in namespaces without a GPU, they have this machine's files, and nothing checks what a role may do.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.cluster.ec2_server import Call
from tests.cluster.instances import Fleet, fleet
from tests.sweep.torchrun import by_torchrun
from tests.trainers.small_runs import without_times
from trainers.results.folder import read_result

pytest.importorskip("boto3")
pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults, pytest.mark.slow]
IMAGE = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04)"
ME, TAG, BUCKET = "203.0.113.7", {"project": "distilsweep"}, "my-bucket"
# All that differs from the file which `sweep.cluster init` writes: hosts have no GPU, two cores
# and little shared memory, and a test has no time to wait for idle or lost machines.
CHANGES = {
    "{CPU: 4, GPU: 1}": "{CPU: 1, GPU: 1}",
    "torch.cuda.is_available() or": "True or",
    "/ray start ": "/ray start --object-store-memory=100000000 ",
    "idle_timeout_minutes: 15": "idle_timeout_minutes: 1",
    "watch $RAY_HEAD_IP:6379 --minutes 10": "watch $RAY_HEAD_IP:6379 --minutes 1",
    "--on-active=45min": "--on-active=600",
}
GRID = """\
name: fleet
fixed:
  dataset: digits
  teacher: embedded
  epochs: 30
  train_samples: 320
  test_samples: 40
  batch_size: 16
  probes: [spectrum]
  test_arms: []
seeds: 3
parts:
  - axes: {student: ["width:0.25", "width:0.5"]}
"""
TRIALS = 6
MLFLOW = "http://127.0.0.1:5000"  # the server on the head
RUNS = f"from mlflow import MlflowClient; c = MlflowClient({MLFLOW!r}); "
RUNS += "e = c.get_experiment_by_name('fleet').experiment_id; r = c.search_runs([e]); "
RUNS += "print('runs', len(r), sum(len(c.list_artifacts(x.info.run_id)) > 0 for x in r))"
GPU = "import ray, ray.autoscaler.sdk as sdk; ray.init(address='auto')"
GPU += "; sdk.request_resources(bundles=[{'GPU': 1}])"


@pytest.fixture
def cloud() -> Iterator[Fleet]:
    with fleet() as made:
        yield made


def fill_in(cloud: Fleet) -> None:
    """~/aws.yaml on the user's machine: as `sweep.cluster init --create` makes it, with CHANGES."""
    user = cloud.network.user
    image = f'Name="{IMAGE} 20260801", Architecture="x86_64", RootDeviceName="/dev/sda1"'
    register = f'import boto3; boto3.client("ec2").register_image({image})'
    user.run(f"python -c {shlex.quote(register)}")
    options = f"--to ~/aws.yaml --bucket {BUCKET} --ssh-from {ME} --max-workers 1 --create"
    options += f" --region us-west-2 --worker-type g6.xlarge --image '{IMAGE}*' --key -"
    output = user.run(f"python -m sweep.cluster init {options}")
    assert "aws.yaml: nothing wrong found" in output
    file = cloud.network.folder / "user" / "aws.yaml"
    text = file.read_text()
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text)


def on_head(command: str) -> str:
    return f"ray exec ~/aws.yaml {shlex.quote(command)} 2>&1"


@contextmanager
def sweeping(cloud: Fleet, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The user's process that runs the sweep on the head."""
    grid = cloud.network.folder / "grid.yaml"
    grid.write_text(GRID)
    # 0 GPUs: with one, trials would ask torch for what no host has.
    command = f"python -m sweep.run --grid {grid} --address auto --gpus-per-trial 0"
    command += f' --store "$SWEEP_STORE" --out ~/run --tracking-uri {MLFLOW}'
    with log.open("wb") as stream:
        sweep = subprocess.Popen(
            cloud.network.user.command(on_head(command)), stdout=stream, stderr=stream
        )
    try:
        yield sweep
    finally:
        sweep.kill()
        sweep.wait(30)
        print(log.read_text()[-20_000:])


def training(cloud: Fleet) -> bool:
    """Whether a trial has reported an epoch to the head."""
    journal = cloud.home(cloud.head()) / "run" / "journal.jsonl"
    return journal.is_file() and '"event":"epoch"' in journal.read_text()


def results(cloud: Fleet) -> dict[str, bytes]:
    """{key: content} of the trials' results in the bucket."""
    objects = cloud.ask("objects", BUCKET)
    return {key: text for key, text in objects.items() if key.endswith("/result.json")}


def sweep_through_a_dry_market(cloud: Fleet, log: Path) -> None:
    """A sweep on spot machines, one of which is reclaimed when there are no others to be had."""
    with sweeping(cloud, log) as sweep:
        cloud.until(lambda: training(cloud) or sweep.poll() is not None, "no epoch ended", 1500)
        assert sweep.poll() is None, log.read_text()
        assert {worker.kind for worker in cloud.workers()} == {"spot"}
        cloud.ask("set", "dry", True)
        reclaimed = cloud.workers()[0]
        cloud.reclaim(reclaimed, seconds=20)
        logs = cloud.home(reclaimed).glob("tmp/ray/session_2*/logs/worker*.err")
        assert any("the cloud takes this machine away" in path.read_text() for path in logs)
        cloud.until(lambda: "on demand" in [i.kind for i in cloud.workers()], "no fallback")
        assert sweep.wait(1500) == 0, log.read_text()
    assert len(results(cloud)) == TRIALS
    # The sweep's own run and one a trial, each with files, which are in the bucket.
    said = cloud.network.user.run(on_head(shlex.join(["python", "-c", RUNS])))
    assert f"runs {TRIALS + 1} {TRIALS + 1}" in said
    keys = cloud.ask("objects", BUCKET)
    assert any(key.startswith("distilsweep/mlflow/") for key in keys)
    assert sum(key.startswith("distilsweep/environments/") for key in keys) == 1
    places = [cloud.home(i) for i in (cloud.head(), *cloud.workers())]
    assert len({(place / "venv" / ".environment").read_text() for place in places}) == 1


@contextmanager
def attached(cloud: Fleet, option: str) -> Iterator[IO[bytes]]:
    """`ray attach` with this option; what is written is typed on the head."""
    command = cloud.network.user.command(f"ray attach ~/aws.yaml {option} 2>&1")
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert shell.stdin is not None
    try:
        yield shell.stdin
    finally:
        shell.kill()
        shell.wait(30)


def use_the_head(cloud: Fleet) -> None:
    """The commands of docs/cluster.md that watch a sweep and fetch what it wrote."""
    user, home = cloud.network.user, cloud.home(cloud.head())
    user.run("ray exec ~/aws.yaml --tmux 'touch ~/begun' 2>&1")
    cloud.until((home / "begun").exists, "nothing runs in tmux")
    with attached(cloud, "--tmux") as typed:
        typed.write(b"touch ~/typed\n")
        typed.flush()
        cloud.until((home / "typed").exists, "the session in tmux is not attached")
    with attached(cloud, "-p 5000"):
        cloud.until(lambda: user.reaches("127.0.0.1", 5000), "MLflow's port is not forwarded")
        health = f"import urllib.request as u; print(u.urlopen('{MLFLOW}/health').read())"
        assert "OK" in user.run(f"python -c {shlex.quote(health)}")
    user.run("ray rsync-down ~/aws.yaml '~/run/' ~/fetched/ 2>&1")
    fetched = cloud.network.folder / "user" / "fetched"  # as it is seen from here
    for name in ("journal.jsonl", "report.html"):
        assert (fetched / name).read_bytes() == (home / "run" / name).read_bytes()


def refused(cloud: Fleet) -> list[Call]:
    """The head's looks at its instances that were refused: more than Ray's default bears."""
    return [call for call in cloud.calls("DescribeInstances") if call.error]


def up_to_date(cloud: Fleet) -> bool:
    """Whether a worker is there on which Ray has started."""
    return "up-to-date" in [i.tags.get("ray-node-status") for i in cloud.workers()]


@pytest.mark.timeout(5400)
def test_a_cluster_on_ec2_from_up_to_down(cloud: Fleet, tmp_path: Path) -> None:
    user, begin = cloud.network.user, time.monotonic()

    def step(what: str) -> None:
        print(f"{time.monotonic() - begin:.0f} s: {what}")

    fill_in(cloud)
    user.run("ray up -y ~/aws.yaml 2>&1")
    step("up")
    assert [i.kind for i in cloud.instances("running")] == ["on demand"]  # the head alone

    sweep_through_a_dry_market(cloud, tmp_path / "sweep.log")
    step("swept")
    use_the_head(cloud)
    step("attached, and fetched the report")
    cloud.ask("set", "closed", True)
    cloud.until(lambda: len(refused(cloud)) > 8, "the autoscaler has ended")
    cloud.ask("set", "closed", False)
    cloud.until(lambda: not cloud.workers(), "idle workers run on")
    step("idle workers are gone")

    user.run(on_head(shlex.join(["python", "-c", GPU])))
    cloud.until(lambda: up_to_date(cloud), "no worker for request_resources")
    step("a worker is there")
    cloud.crash(cloud.head())
    cloud.until(lambda: not cloud.workers(), "workers without a head run on")
    step("workers without a head are gone")

    user.run("ray down -y ~/aws.yaml 2>&1")
    step("down")
    assert {i.state for i in cloud.instances()} == {"terminated"}
    assert cloud.ask("volumes") == []
    check_calls(cloud)
    assert_trials_end_as_on_one_machine(cloud, tmp_path)


@pytest.mark.timeout(1800)
def test_a_worker_ends_where_its_head_dies_during_its_set_up(cloud: Fleet) -> None:
    fill_in(cloud)
    file = cloud.network.folder / "user" / "aws.yaml"
    # A set-up that never ends stands for one that the head's death leaves unfinished.
    endless = "worker_setup_commands:\n  - sleep infinity\n"
    text = file.read_text().replace("worker_setup_commands:\n", endless)
    file.write_text(text.replace("--on-active=600", "--on-active=90"))
    user = cloud.network.user
    user.run("ray up -y ~/aws.yaml 2>&1")
    user.run(on_head(shlex.join(["python", "-c", GPU])))
    cloud.until(cloud.workers, "no worker for request_resources")
    cloud.crash(cloud.head())
    cloud.until(lambda: not cloud.workers(), "a worker without a head runs on")
    assert [i.state for i in cloud.workers("")] == ["terminated"]


def assert_trials_end_as_on_one_machine(cloud: Fleet, folder: Path) -> None:
    for key, content in cloud.ask("objects", BUCKET).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (bank,) = (folder / "distilsweep" / "banks").iterdir()
    for path in folder.glob("distilsweep/trials/*/result.json"):
        result = read_result(str(path))
        alone = by_torchrun(result.config, bank, folder / result.id)
        assert without_times(result) == without_times(alone), result.config


def check_calls(cloud: Fleet) -> None:
    """The requests to EC2, by the user's machine and by the head's autoscaler."""
    user, head_address = cloud.network.user.address, cloud.head().address
    head, *workers = launched = cloud.calls("RunInstances")
    assert head.source == user
    assert "UserData" not in head.given
    assert head.given["IamInstanceProfile.Name"] == "distilsweep-head"
    assert {call.source for call in workers} == {head_address}
    assert {call.source for call in cloud.calls("TerminateInstances")} == {user, head_address}
    for call in launched:
        given = call.given
        assert given["MetadataOptions.HttpTokens"] == "required"
        assert given["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
        assert given["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
        for kind in ("instance", "volume"):
            assert tags_of(given, kind)["project"] == "distilsweep"
    for call in workers:
        assert call.given["IamInstanceProfile.Name"] == "distilsweep-worker"
        assert call.given["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert call.given["UserData"]
    check_markets(workers)

    (group,) = {call.given["SecurityGroupId.1"] for call in launched}
    assert not any("SecurityGroupId.2" in call.given for call in launched)
    assert {call.source for call in cloud.calls("CreateSecurityGroup")} == {user}
    assert set(cloud.ask("open_ports", group)) == {
        ("tcp", 22, 22, ME + "/32"),
        ("-1", None, None, group),
    }


def check_markets(workers: list[Call]) -> None:
    """Spot machines, in all zones; on-demand ones of the same type only after a refusal."""
    markets = [call.given.get("InstanceMarketOptions.MarketType") for call in workers]
    refused = [bool(call.error) for call in workers]
    assert set(markets) == {"spot", None}
    assert markets.index(None) > refused.index(True)
    assert {call.given["InstanceType"] for call in workers} == {"g6.xlarge"}
    zones = {call.given["SubnetId"] for call in workers if call.error}
    assert len(zones) > 2
    for call, market in zip(workers, markets, strict=True):
        if market == "spot":
            options = "InstanceMarketOptions.SpotOptions."
            assert call.given[options + "SpotInstanceType"] == "one-time"
            assert call.given[options + "InstanceInterruptionBehavior"] == "terminate"


def tags_of(given: dict[str, str], kind: str) -> dict[str, str]:
    """Tags that a call gives to resources of one kind."""
    number = next(
        key.split(".")[1]
        for key, value in given.items()
        if key.endswith("ResourceType") and value == kind
    )
    tag = f"TagSpecification.{number}.Tag."
    return {
        value: given[key.removesuffix("Key") + "Value"]
        for key, value in given.items()
        if key.startswith(tag) and key.endswith(".Key")
    }
