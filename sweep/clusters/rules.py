"""What Ray accepts in a cluster file without complaint, and should not be started.

`ray up` has no dry run, and its schema covers neither `node_config` nor shell commands. Without
`InstanceMarketOptions` the GPUs are on demand at several times the price; a misspelt key keeps
every worker from starting; a missing file is found when machines are already billed. Each rule
here is one function from a `ClusterFile` to messages, and its name is shown with them.

Source: Ray's cluster YAML reference, https://docs.ray.io/en/latest/cluster/vms/references/
ray-cluster-configuration.html, and EC2's RunInstances.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweep.clusters.ec2 import unknown_parameters

TOKEN = "~/.ray/auth_token"  # where Ray looks when neither RAY_AUTH_TOKEN(_PATH) is set
NEEDED = ("provider", "head_node_type", "available_node_types")
INSTALLED = {"pyproject.toml", "constraints.txt", "shards", "trainers", "sweep"}
MAX_IDLE_MINUTES = 30


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file as Ray reads it, its text with the comments, and the folder it lies in.

    Paths in `file_mounts` are relative to that folder, from which `ray up` is run.
    """

    config: dict[str, Any]
    text: str
    root: Path

    @classmethod
    def parse(cls, text: str, root: Path) -> ClusterFile:
        """Raises: ValueError where `text` is not YAML, or lacks what every cluster file has.

        The reader is the one that Ray uses (YAML 1.1, anchors and merge keys included), and not
        the project's strict one, so that both see the same values.
        """
        try:
            config = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"not YAML: {error}") from None
        missing = [key for key in NEEDED if not isinstance(config, dict) or key not in config]
        if missing:
            raise ValueError(f"no {', '.join(missing)}; expected a cluster file for `ray up`")
        types, head = config["available_node_types"], config["head_node_type"]
        if not isinstance(types, dict) or head not in types:
            raise ValueError(f"head_node_type: `{head}` is not one of available_node_types")
        for name, node in types.items():
            if not isinstance(node, dict) or not isinstance(node.get("node_config"), dict):
                raise ValueError(f"available_node_types: {name}: no node_config")
        return cls(config, text, root)

    @property
    def head(self) -> dict[str, Any]:
        return self.config["available_node_types"][self.config["head_node_type"]]

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        types = self.config["available_node_types"]
        return {name: node for name, node in types.items() if name != self.config["head_node_type"]}

    @property
    def node_configs(self) -> dict[str, dict[str, Any]]:
        types = self.config["available_node_types"]
        return {name: node["node_config"] for name, node in types.items()}

    @property
    def start_commands(self) -> dict[str, str]:
        """The `ray start` command of the head and of the workers; "" where there is none."""
        return {
            side: next((line for line in self.config.get(side, []) if "ray start" in line), "")
            for side in ("head_start_ray_commands", "worker_start_ray_commands")
        }

    @property
    def setup_commands(self) -> list[str]:
        """Every command that prepares a node before Ray starts on it."""
        names = (
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
            "worker_setup_commands",
        )
        return [line for name in names for line in self.config.get(name, [])]


Rule = Callable[[ClusterFile], Iterator[str]]


def node_config_keys(file: ClusterFile) -> Iterator[str]:
    for name, node in file.node_configs.items():
        yield from unknown_parameters(node, f"{name}.node_config")


def spot(file: ClusterFile) -> Iterator[str]:
    """Workers are spot machines; on-demand ones come only where a launch of those has failed."""
    if "InstanceMarketOptions" in file.head["node_config"]:
        yield "the head has InstanceMarketOptions: losing it loses the scheduler; remove them"
    markets = {
        name: (node["node_config"].get("InstanceMarketOptions") or {}).get("MarketType")
        for name, node in file.workers.items()
    }
    spot = [node for name, node in file.workers.items() if markets[name] == "spot"]
    lowest = min((node.get("priority", 0) for node in spot), default=0)
    for name, node in file.workers.items():
        if markets[name] not in ("spot", None):
            yield f"{name}: InstanceMarketOptions.MarketType: {markets[name]}; expected spot"
        elif markets[name] is None and not spot:
            yield f"{name} is billed on demand: InstanceMarketOptions.MarketType must be spot"
        elif markets[name] is None and node.get("priority", 0) >= lowest:
            yield (
                f"{name} is billed on demand: its priority must be below that of every spot type, "
                f"{lowest}, so that it comes only where those cannot be had"
            )
        elif all(node.get("resources") != other.get("resources") for other in spot):
            yield f"{name}: resources of no spot type; it could not stand in for one"


def shutdown(file: ClusterFile) -> Iterator[str]:
    """Workers without a head shut themselves down, and are not billed after that."""
    for name, node in file.workers.items():
        if node["node_config"].get("InstanceInitiatedShutdownBehavior") != "terminate":
            yield f"{name}: InstanceInitiatedShutdownBehavior must be terminate: disks are billed"
    lines = file.config.get("worker_start_ray_commands", [])
    if not any(
        "sweep.cluster watch $RAY_HEAD_IP:" in line and "shutdown" in line for line in lines
    ):
        yield "worker_start_ray_commands: start `sweep.cluster watch $RAY_HEAD_IP:PORT` in them"


def sees_gpu(file: ClusterFile) -> Iterator[str]:
    commands = [*file.setup_commands]
    if not any("torch.cuda.is_available()" in line for line in commands):
        yield "the set-up does not check torch.cuda.is_available(): trials would train on the CPU"


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


def ssh_user(file: ClusterFile) -> Iterator[str]:
    if not file.config.get("auth", {}).get("ssh_user"):
        yield "auth.ssh_user is missing; Ubuntu's images have `ubuntu`"


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


def everywhere(file: ClusterFile) -> Iterator[str]:
    for address in ("0.0.0.0", "::/0", "/0 ", '/0"'):
        if address in file.text:
            yield f"{address.strip()} opens something to every address; name one address"


def file_mounts(file: ClusterFile) -> Iterator[str]:
    mounts = file.config.get("file_mounts", {})
    for remote, local in mounts.items():
        if remote == local == TOKEN:
            continue  # made by the user; `ray up` itself refuses to start without it
        path = (file.root / local).resolve()
        if file.root.resolve() not in path.parents:
            yield f"file_mounts {local}: expected a path inside the repository, and not all of it"
        elif not path.exists():
            yield f"file_mounts {local}: no such file in {file.root}"
    for name in sorted(INSTALLED - set(mounts.values())):
        yield f"file_mounts lacks {name}, which the installation on a node needs"


def head_runs_no_trial(file: ClusterFile) -> Iterator[str]:
    if file.head.get("resources") != {"CPU": 0} or file.head.get("max_workers") != 0:
        yield "the head must have resources {CPU: 0} and max_workers 0, so that no trial runs on it"


def workers(file: ClusterFile) -> Iterator[str]:
    most = file.config.get("max_workers", 0)
    if not file.workers or most < 1:
        yield "no worker can ever start; add a node type beside the head, and max_workers above 0"
    for name, node in file.workers.items():
        if node.get("min_workers") != 0:
            yield f"{name}.min_workers must be 0: nothing is billed while nothing runs"
        if not 1 <= node.get("max_workers", 0) <= most:
            yield f"{name}.max_workers must lie between 1 and the cluster's max_workers, {most}"
        if not node.get("resources", {}).get("GPU"):
            yield f"{name} has no GPU among its resources"


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


def idle_timeout(file: ClusterFile) -> Iterator[str]:
    minutes = file.config.get("idle_timeout_minutes")
    if not isinstance(minutes, int | float) or not 0 < minutes <= MAX_IDLE_MINUTES:
        yield f"idle_timeout_minutes: found {minutes}; above 0 and at most {MAX_IDLE_MINUTES}"


def token(file: ClusterFile) -> Iterator[str]:
    for side, line in file.start_commands.items():
        if not _exports(line, "RAY_AUTH_MODE=token"):
            yield f"{side}: export RAY_AUTH_MODE=token before ray start"
    if file.config.get("file_mounts", {}).get(TOKEN) != TOKEN:
        yield f"file_mounts must carry {TOKEN}"
    if not any(f"chmod 600 {TOKEN}" in line for line in file.setup_commands):
        yield f"setup_commands must chmod 600 {TOKEN}"


def telemetry(file: ClusterFile) -> Iterator[str]:
    for side, line in file.start_commands.items():
        if not _exports(line, "RAY_USAGE_STATS_ENABLED=0"):
            yield f"{side}: export RAY_USAGE_STATS_ENABLED=0 before ray start"


def _exports(line: str, assignment: str) -> bool:
    """Whether shell command `line` exports `assignment` in a statement before `ray start`."""
    return bool(re.search(rf"\bexport\b[^;]*\b{assignment}\b[^;]*;.*ray start", line))


def loopback(file: ClusterFile) -> Iterator[str]:
    hosts = re.findall(r"--dashboard-host[= ](\S+)", str(file.start_commands))
    if hosts != ["127.0.0.1"]:
        yield (
            f"--dashboard-host: found {hosts}; give 127.0.0.1, for the dashboard runs whatever "
            "job it is sent"
        )


def starts(file: ClusterFile) -> Iterator[str]:
    head, worker = file.start_commands.values()
    if "--head" not in head or "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "the head needs --head --autoscaling-config=~/ray_bootstrap_config.yaml"
    if "--address=$RAY_HEAD_IP:" not in worker:
        yield "a worker needs --address=$RAY_HEAD_IP:PORT"
    # Ray's launcher exports OMP_NUM_THREADS=1, which every trial would inherit.
    for side, line in file.start_commands.items():
        if "unset OMP_NUM_THREADS" not in line:
            yield f"{side}: unset OMP_NUM_THREADS before ray start, or each trial has one thread"


def pinned(file: ClusterFile) -> Iterator[str]:
    if any(name not in file.config for name in ("setup_commands", "head_setup_commands")):
        yield "give setup_commands and head_setup_commands: Ray's own install unpinned packages"
    installs = [line for line in file.setup_commands if re.search(r"\bpip3? install\b", line)]
    for line in installs:
        if "-c constraints.txt" not in line:
            yield f"not pinned, add -c constraints.txt: {line}"
    if not any(re.search(r"\.\[deepspeed,aws\]", line) for line in installs):
        yield "setup_commands install no .[deepspeed,aws]"
    text = str(file.config)
    if re.search(r"nightly|ray-wheels|\bdev0\b|--pre\b|pip3? install .*https?:", text):
        yield "a nightly, a pre-release or an install from a URL; install releases only"


def isolation(file: ClusterFile) -> Iterator[str]:
    if file.config.get("docker") or re.search(r"docker\.sock|--privileged", str(file.config)):
        yield "remove docker: whoever reaches the Docker socket owns the node"
    for name, node in file.node_configs.items():
        if (node.get("MetadataOptions") or {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions.HttpTokens must be required"
        if not node.get("IamInstanceProfile"):
            yield f"{name} has no IamInstanceProfile: Ray's own has full access, workers have none"
        for disk in node.get("BlockDeviceMappings", []):
            if disk["Ebs"].get("DeleteOnTermination") is not True:
                yield f"{name}: a disk without DeleteOnTermination is billed after its node is gone"


def secrets(file: ClusterFile) -> Iterator[str]:
    if re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_credentials|PRIVATE KEY", file.text):
        yield "a credential in the file; use the environment and instance profiles"


RULES: tuple[Rule, ...] = (
    *(
        node_config_keys,
        spot,
        shutdown,
        sees_gpu,
        tags,
        image,
        ssh_user,
        ssh_rule,
        everywhere,
        file_mounts,
    ),
    *(head_runs_no_trial, workers, zones, no_stopped_nodes, idle_timeout, token, telemetry),
    *(loopback, starts, pinned, isolation, secrets),
)


def check(text: str, root: Path) -> list[tuple[str, str]]:
    """(rule, message) for everything wrong in cluster file `text`, which lies in folder `root`.

    Raises: ValueError where `text` is not a cluster file at all.
    """
    file = ClusterFile.parse(text, root)
    return [(rule.__name__, message) for rule in RULES for message in rule(file)]


def not_ready(text: str, token_file: Path) -> Iterator[str]:
    """What is left to do before `ray up`: values to fill in, and the token of Ray's connections."""
    for number, line in enumerate(text.splitlines(), start=1):
        if "FILL-IN" in line and not line.startswith("#"):
            yield f"line {number}: {line.strip()}"
    if not token_file.is_file():
        yield f"{token_file} is missing; make it with `ray get-auth-token --generate`"
    elif token_file.stat().st_mode & 0o077:
        yield f"{token_file} can be read by others; chmod 600 {token_file}"
