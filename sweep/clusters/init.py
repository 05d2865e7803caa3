"""Fill in a cluster file from options or answers, and say what could not be checked."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from sweep.clusters.account import IMAGE, Account
from sweep.clusters.cluster_file import TOKEN
from sweep.clusters.fill_in import Aws, Local, fill_in_aws, fill_in_local

SSH_SECONDS = 10
TOOLS = ("python3", "rsync", "tmux", "c++")
# Of each provider: (name of an option, what it means, default). An option that is not given is a
# prompt on a terminal.
OPTIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "aws": (
        ("bucket", "bucket of the store, BUCKET or BUCKET/PREFIX", ""),
        ("region", "region", "us-west-2"),
        ("ssh_from", "address that may connect by SSH (curl https://checkip.amazonaws.com)", ""),
        ("worker_type", "instance types of workers, with one GPU model", "g6.xlarge"),
        ("max_workers", "workers that may run, and be billed, at once", "8"),
        ("image", "name of the machine image", IMAGE),
        ("key", "name of a key pair, its private key in ~/.ssh/NAME.pem; - lets Ray make one", "-"),
    ),
    "local": (
        ("head", "address of the head", ""),
        ("workers", "addresses of the workers", ""),
        ("user", "user for SSH, the same on all", ""),
        ("key", "file of the private key for SSH", "~/.ssh/id_ed25519"),
        ("store", "folder that all of them share, or a bucket's URL", ""),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="cluster.yaml", help="default: cluster.yaml")
    parser.add_argument("--to", metavar="FILE", help="write there (default: into the file itself)")
    parser.add_argument(
        "--create",
        action="store_true",
        help="make what is missing on AWS: bucket, security group, instance profiles",
    )
    meanings = {name: text for options in OPTIONS.values() for name, text, _ in options}
    for name, text in meanings.items():
        kinds = " and ".join(
            kind for kind, options in OPTIONS.items() if name in [option for option, *_ in options]
        )
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=f"{kinds}: {text}")


def init(options: argparse.Namespace) -> list[str]:
    """Write the file and the token; what was found, is missing or was not checked, in lines.

    Raises: ValueError for a file of another kind, and for an answer that is missing or wrong;
        OSError.
    """
    path = Path(options.file)
    text = path.read_text()
    config = yaml.safe_load(text)
    provider = config.get("provider") if isinstance(config, dict) else None
    kind = provider.get("type") if isinstance(provider, dict) else None
    if kind not in OPTIONS:
        raise ValueError(
            f"{path}: init fills in files for {' and '.join(OPTIONS)}; here, search for FILL-IN, "
            f"and see `python -m sweep.cluster check {path} --ready`"
        )
    answers = {
        name: _answer(name, getattr(options, name), text, default)
        for name, text, default in OPTIONS[kind]
    }
    text, notes = (_aws if kind == "aws" else _local)(text, answers, options.create)
    token = Path(TOKEN).expanduser()
    if not token.exists():
        token.parent.mkdir(mode=0o700, exist_ok=True)
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        notes.append(f"made:        {token}, the token that every connection to Ray must show")
    target = Path(options.to or path)
    target.write_text(text)
    return [*notes, f"written:     {target}"]


def _answer(name: str, given: str | None, text: str, default: str) -> str:
    """The option's value as given, or else by a prompt; without a terminal, its default.

    Raises: ValueError for an option without a default, where there is no terminal.
    """
    if given is not None:
        return given
    if not sys.stdin.isatty():
        if default:
            return default
        raise ValueError(f"give --{name.replace('_', '-')}: {text}")
    while True:
        answer = input(f"{text}{f' [{default}]' if default else ''}: ").strip() or default
        if answer:
            return answer


def _aws(text: str, answers: dict[str, str], create: bool) -> tuple[str, list[str]]:
    address = _network(answers["ssh_from"])
    most, types = answers["max_workers"], _listed(answers["worker_type"])
    if not most.isdecimal() or not int(most):
        raise ValueError(f"--max-workers {most}: expected a whole number above 0")
    bucket = answers["bucket"].removeprefix("s3://").strip("/")
    if not bucket or bucket != bucket.lower():
        raise ValueError(f"--bucket {answers['bucket']}: expected BUCKET or BUCKET/PREFIX")
    account = Account(answers["region"])
    number = account.credentials()
    cpus, gpus = account.sizes(types)
    zones = account.zones(types)
    if len(zones) < 2:
        account.notes.append(f"wrong:       {', '.join(zones) or 'no zone'}: too few for spot")
    image = account.image(answers["image"])
    account.bucket(bucket.partition("/")[0], create)
    group = account.group(address, create)
    account.profiles(bucket, number, create)
    account.quotas(types[0], max(cpus) * int(most))  # EC2 may have the largest type alone
    key = None if answers["key"] == "-" else answers["key"]
    if key:
        account.key(key)
        if not Path(f"~/.ssh/{key}.pem").expanduser().is_file():
            account.notes.append(f"missing:     ~/.ssh/{key}.pem, the private key")
    values = Aws(
        region=answers["region"],
        zones=zones or [f"{answers['region']}{letter}" for letter in "abc"],
        bucket=bucket if "/" in bucket else f"{bucket}/distilsweep",
        image=image or "ami-FILL-IN",
        security_group=group or "sg-FILL-IN",
        workers=types,
        cpus=min(cpus),
        gpus=gpus,
        max_workers=int(most),
        key=key,
    )
    account.notes.append("not checked: whether spot machines can be had, and your permissions")
    return fill_in_aws(text, values), account.notes


def _network(address: str) -> str:
    """One address as a network, ADDRESS/32.

    Raises: ValueError for anything wider, and for IPv6: Ray connects to a node's IPv4 address, so
    it is from one that SSH comes.
    """
    try:
        network = ipaddress.IPv4Network(address)
    except ValueError:
        network = None
    if network is None or network.num_addresses != 1:
        raise ValueError(f"--ssh-from {address}: expected one IPv4 address, such as 203.0.113.7")
    return str(network)


def _local(text: str, answers: dict[str, str], create: bool) -> tuple[str, list[str]]:
    del create
    hosts = [answers["head"], *_listed(answers["workers"])]
    values = Local(hosts[0], hosts[1:], answers["user"], answers["key"], answers["store"])
    if not values.store.startswith("/") and "://" not in values.store:
        raise ValueError(f"--store {values.store}: expected a path that begins with /, or a URL")
    notes, versions = [], set()
    for host in hosts:
        lines = _ssh(values, host)
        versions |= {line for line in lines if line.startswith("Python")}
        notes += [f"host:        {host}: {line}" for line in lines]
    if len(versions) > 1:
        notes.append("wrong:       Ray needs the same Python on all of them")
    notes.append("not checked: firewalls between the machines, and GPU drivers")
    return fill_in_local(text, values), notes


def _ssh(values: Local, host: str) -> list[str]:
    """What is wrong with a host, or its version of Python."""
    folder = "" if "://" in values.store else shlex.quote(str(Path(values.store).parent))
    script = "python3 -V; for tool in " + " ".join(TOOLS)
    script += "; do command -v $tool > /dev/null || echo missing $tool; done"
    if folder:
        script += f"; test -w {folder} || echo cannot write in {folder}"
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]
    options += ["-o", "StrictHostKeyChecking=accept-new"]
    key = str(Path(values.key).expanduser())
    ran = subprocess.run(
        ["ssh", "-i", key, *options, f"{values.user}@{host}", script],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if ran.returncode == 255:  # of ssh itself
        return [f"no SSH: {' '.join(ran.stderr.split())}"]
    return ran.stdout.strip().splitlines()


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
