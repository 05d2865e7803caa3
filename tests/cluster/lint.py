"""What Ray accepts in a cluster file without a word, and should not be run.

`ray up` has no dry run, and its schema looks neither into `node_config` nor into commands: without
`InstanceMarketOptions` the GPUs are on demand, a misspelt key keeps every worker from starting, a
missing file is found when machines are already billed.

    python tests/cluster/lint.py            # check cluster.yaml; exit status 1 names what is wrong
    python tests/cluster/lint.py --ready    # also: is every FILL-IN filled in, is there a token?

Each rule is a function of (config, text, root) that yields what is wrong; its name names it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TOKEN = "~/.ray/auth_token"  # where Ray looks when neither RAY_AUTH_TOKEN(_PATH) is set

# EC2 RunInstances, and SubnetIds, which is Ray's; below a dot, what each may hold. What is absent
# here may hold anything.
_PARAMETERS = """
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


def _tree(names: str) -> dict[str, dict]:
    tree: dict[str, dict] = {}
    for name in names.split():
        below = tree
        for key in name.split("."):
            below = below.setdefault(key, {})
    return tree


NODE_CONFIG = _tree(_PARAMETERS)


def _head(config: dict) -> dict:
    return config["available_node_types"][config["head_node_type"]]


def _workers(config: dict) -> dict[str, dict]:
    types = config["available_node_types"]
    return {name: node for name, node in types.items() if name != config["head_node_type"]}


def _nodes(config: dict) -> dict[str, dict]:
    return {name: node["node_config"] for name, node in config["available_node_types"].items()}


def _starts(config: dict) -> dict[str, str]:
    """The one `ray start` command of the head and of the workers, "" where there is none."""
    sides = ("head_start_ray_commands", "worker_start_ray_commands")
    return {
        side: next((line for line in config.get(side, []) if "ray start" in line), "")
        for side in sides
    }


def _setup(config: dict) -> list[str]:
    names = ("initialization_commands", "setup_commands", "head_setup_commands")
    return [line for name in (*names, "worker_setup_commands") for line in config.get(name, [])]


def _unknown(value: object, known: dict, where: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown(item, known, where)
    elif isinstance(value, dict) and known:
        for key in value:
            if key not in known:
                yield f"{where}.{key} is not an EC2 RunInstances parameter"
            else:
                yield from _unknown(value[key], known[key], f"{where}.{key}")


def node_config_keys(config: dict, text: str, root: Path) -> Iterator[str]:
    for name, node in _nodes(config).items():
        yield from _unknown(node, NODE_CONFIG, f"{name}.node_config")


def spot(config: dict, text: str, root: Path) -> Iterator[str]:
    if "InstanceMarketOptions" in _head(config)["node_config"]:
        yield "the head must be on demand: losing it loses the scheduler"
    for name, node in _workers(config).items():
        market = node["node_config"].get("InstanceMarketOptions") or {}
        if market.get("MarketType") != "spot":
            yield f"{name} is not spot: InstanceMarketOptions.MarketType must be spot"


def image(config: dict, text: str, root: Path) -> Iterator[str]:
    images = {node.get("ImageId") for node in _nodes(config).values()}
    if len(images) != 1 or not str(*images).startswith("ami-"):
        yield f"every node needs the same ImageId ami-..., got {images}: Ray's default is too old"


def ssh_user(config: dict, text: str, root: Path) -> Iterator[str]:
    if not config.get("auth", {}).get("ssh_user"):
        yield "auth.ssh_user is missing"


def ssh_rule(config: dict, text: str, root: Path) -> Iterator[str]:
    """Ray opens port 22 of a group it makes to everyone, whatever rules it was given."""
    if "security_group" in config["provider"]:
        yield "provider.security_group: Ray would add SSH from everywhere; use SecurityGroupIds"
    for name, node in _nodes(config).items():
        if not node.get("SecurityGroupIds"):
            yield f"{name} has no SecurityGroupIds: Ray would make a group open to everyone"
        if "NetworkInterfaces" in node:
            yield f"{name}: NetworkInterfaces would replace SecurityGroupIds"
    joined = re.sub(r"\\\n#\s*", "", text)
    for line in re.findall(r"authorize-security-group-ingress.*", joined):
        from_group = "--source-group sg-" in line and "--cidr" not in line
        from_user = "--protocol tcp --port 22 --cidr" in line and re.search(r'/32"?\s*$', line)
        if not from_group and not from_user:
            yield f"only port 22 from one address, or the group itself: {line}"


def everywhere(config: dict, text: str, root: Path) -> Iterator[str]:
    for address in ("0.0.0.0", "::/0", "/0 ", '/0"'):
        if address in text:
            yield f"{address.strip()} opens something to every address"


def file_mounts(config: dict, text: str, root: Path) -> Iterator[str]:
    mounts = config.get("file_mounts", {})
    for remote, local in mounts.items():
        if remote == local == TOKEN:
            continue  # the user makes it; Ray's own assertion ends `ray up` without it
        inside = (root / local).resolve()
        if root.resolve() not in inside.parents:
            yield f"file_mounts {local}: a path inside the repository, not all of it"
        elif not inside.exists():
            yield f"file_mounts {local}: no such file in the repository"
    needed = {"pyproject.toml", "constraints.txt", "shards", "trainers", "sweep"}
    for name in sorted(needed - set(mounts.values())):
        yield f"file_mounts lacks {name}, which the install needs"


def head_runs_no_trial(config: dict, text: str, root: Path) -> Iterator[str]:
    head = _head(config)
    if head.get("resources") != {"CPU": 0} or head.get("max_workers") != 0:
        yield "the head must offer {CPU: 0} and nothing else, and have max_workers 0"


def workers(config: dict, text: str, root: Path) -> Iterator[str]:
    if not _workers(config) or config.get("max_workers", 0) < 1:
        yield "no worker can ever start"
    for name, node in _workers(config).items():
        if node.get("min_workers") != 0:
            yield f"{name}.min_workers must be 0: nothing is billed while nothing runs"
        if not 1 <= node.get("max_workers", 0) <= config.get("max_workers", 0):
            yield f"{name}.max_workers must lie between 1 and the cluster's max_workers"
        if not node.get("resources", {}).get("GPU"):
            yield f"{name} offers no GPU"


def zones(config: dict, text: str, root: Path) -> Iterator[str]:
    provider = config["provider"]
    names = [zone.strip() for zone in provider.get("availability_zone", "").split(",")]
    if len(set(names)) < 2 or any(zone[:-1] != provider["region"] for zone in names):
        yield f"availability_zone must list two or more zones of {provider['region']}, got {names}"


def no_stopped_nodes(config: dict, text: str, root: Path) -> Iterator[str]:
    if config["provider"].get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes must be False: stopped nodes' disks are billed"


def idle_timeout(config: dict, text: str, root: Path) -> Iterator[str]:
    if not 0 < config.get("idle_timeout_minutes", 0) <= 30:
        yield "idle_timeout_minutes must be given, above 0 and at most 30"


def token(config: dict, text: str, root: Path) -> Iterator[str]:
    for side, line in _starts(config).items():
        if not re.search(r"\bexport\b[^;]*\bRAY_AUTH_MODE=token\b[^;]*;.*ray start", line):
            yield f"{side}: export RAY_AUTH_MODE=token before ray start"
    if config.get("file_mounts", {}).get(TOKEN) != TOKEN:
        yield f"file_mounts must carry {TOKEN}"
    if not any(f"chmod 600 {TOKEN}" in line for line in _setup(config)):
        yield f"setup must chmod 600 {TOKEN}"


def telemetry(config: dict, text: str, root: Path) -> Iterator[str]:
    for side, line in _starts(config).items():
        if not re.search(r"\bexport\b[^;]*\bRAY_USAGE_STATS_ENABLED=0\b[^;]*;.*ray start", line):
            yield f"{side}: export RAY_USAGE_STATS_ENABLED=0 before ray start"


def loopback(config: dict, text: str, root: Path) -> Iterator[str]:
    if re.findall(r"--dashboard-host[= ](\S+)", str(_starts(config))) != ["127.0.0.1"]:
        yield "the dashboard must be bound to 127.0.0.1: it runs what it is sent"


def starts(config: dict, text: str, root: Path) -> Iterator[str]:
    head, worker = _starts(config).values()
    if "--head" not in head or "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "the head needs --head --autoscaling-config=~/ray_bootstrap_config.yaml"
    if "--address=$RAY_HEAD_IP:" not in worker:
        yield "a worker needs --address=$RAY_HEAD_IP:PORT"
    for side, line in _starts(config).items():
        if "unset OMP_NUM_THREADS" not in line:
            yield f"{side}: unset OMP_NUM_THREADS, or each trial has one thread"


def pinned(config: dict, text: str, root: Path) -> Iterator[str]:
    if any(name not in config for name in ("setup_commands", "head_setup_commands")):
        yield "give setup_commands and head_setup_commands: Ray's own install unpinned packages"
    installs = [line for line in _setup(config) if re.search(r"\bpip3? install\b", line)]
    for line in installs:
        if "-c constraints.txt" not in line:
            yield f"not pinned, -c constraints.txt is missing: {line}"
    if not any(re.search(r"\.\[deepspeed,aws\]", line) for line in installs):
        yield "nothing installs .[deepspeed,aws]"
    if re.search(r"nightly|ray-wheels|\bdev0\b|--pre\b|pip3? install .*https?:", str(config)):
        yield "a nightly, a pre-release or an install from a URL"


def isolation(config: dict, text: str, root: Path) -> Iterator[str]:
    if config.get("docker") or re.search(r"docker\.sock|--privileged", str(config)):
        yield "no container, and no Docker socket: whoever has it owns the node"
    for name, node in _nodes(config).items():
        if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions.HttpTokens must be required"
        if not node.get("IamInstanceProfile"):
            yield f"{name} has no IamInstanceProfile: Ray's own has full access, workers have none"
        for disk in node.get("BlockDeviceMappings", []):
            if disk["Ebs"].get("DeleteOnTermination") is not True:
                yield f"{name}: a disk without DeleteOnTermination is billed for ever"


def secrets(config: dict, text: str, root: Path) -> Iterator[str]:
    if re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_credentials|PRIVATE KEY", text):
        yield "a credential in the file: use the environment, and instance profiles"


RULES = (
    *(node_config_keys, spot, image, ssh_user, ssh_rule, everywhere, file_mounts),
    *(head_runs_no_trial, workers, zones, no_stopped_nodes, idle_timeout, token, telemetry),
    *(loopback, starts, pinned, isolation, secrets),
)


def lint(text: str, root: Path) -> list[tuple[str, str]]:
    """(rule, what is wrong) for everything wrong in cluster file `text` of repository `root`."""
    config = yaml.safe_load(text)
    return [(rule.__name__, wrong) for rule in RULES for wrong in rule(config, text, root)]


def not_ready(text: str, home_token: Path) -> Iterator[str]:
    """What the user has yet to do before `ray up`."""
    for number, line in enumerate(text.splitlines(), start=1):
        if "FILL-IN" in line and not line.startswith("#"):
            yield f"line {number}: {line.strip()}"
    if not home_token.is_file():
        yield f"{home_token} is missing: ray get-auth-token --generate"
    elif home_token.stat().st_mode & 0o077:
        yield f"{home_token} can be read by others: chmod 600 {home_token}"


def main(arguments: list[str]) -> int:
    text = (ROOT / "cluster.yaml").read_text()
    wrong = [f"{rule}: {message}" for rule, message in lint(text, ROOT)]
    if "--ready" in arguments:
        wrong += [f"not ready: {message}" for message in not_ready(text, Path(TOKEN).expanduser())]
    print(
        "\n".join(f"cluster.yaml: {line}" for line in wrong) or "cluster.yaml: nothing wrong found"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
