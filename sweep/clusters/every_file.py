"""Rules for every cluster file: the token, what is installed, what is open, how Ray starts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sweep.clusters.cluster_file import TOKEN, ClusterFile, Rule

INSTALLED = {"pyproject.toml", "constraints.txt", "shards", "trainers", "sweep"}


def sees_gpu(file: ClusterFile) -> Iterator[str]:
    commands = [*file.setup_commands]
    if not any("torch.cuda.is_available()" in line for line in commands):
        yield "the set-up does not check torch.cuda.is_available(): trials would train on the CPU"


def ssh_user(file: ClusterFile) -> Iterator[str]:
    if not file.config.get("auth", {}).get("ssh_user"):
        yield "auth.ssh_user is missing; Ubuntu's images have `ubuntu`"


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
    extras = f".[deepspeed,{'gcp' if file.provider['type'] == 'gcp' else 'aws'}]"
    if not any(extras in line for line in installs):
        yield f"setup_commands install no {extras}"
    text = str(file.config)
    if re.search(r"nightly|ray-wheels|\bdev0\b|--pre\b|pip3? install .*https?:", text):
        yield "a nightly, a pre-release or an install from a URL; install releases only"


def secrets(file: ClusterFile) -> Iterator[str]:
    if re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_credentials|PRIVATE KEY", file.text):
        yield "a credential in the file; use the environment and instance profiles"


def isolation(file: ClusterFile) -> Iterator[str]:
    if file.config.get("docker") or re.search(r"docker\.sock|--privileged", str(file.config)):
        yield "remove docker: whoever reaches the Docker socket owns the node"


RULES: tuple[Rule, ...] = (
    *(sees_gpu, ssh_user, everywhere, file_mounts, token, telemetry),
    *(loopback, starts, pinned, isolation, secrets),
)
