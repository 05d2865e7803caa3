"""Values written into a cluster file, in place, so that its comments and anchors stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Aws:
    """What cluster.yaml has to know.

    Attributes:
        region, zones: where machines start; zones in the order in which they are tried.
        bucket: of the store, with or without a prefix: BUCKET/PREFIX.
        image: id. security_group: id.
        workers: instance types with the same GPU, the first one preferred. cpus, gpus: of each.
        max_workers: how many can be billed at once.
        key: name of a key pair whose private key is in ~/.ssh/KEY.pem; None: Ray makes one.
    """

    region: str
    zones: Sequence[str]
    bucket: str
    image: str
    security_group: str
    workers: Sequence[str]
    cpus: int
    gpus: int
    max_workers: int
    key: str | None = None


@dataclass(frozen=True)
class Local:
    """What clusters/local.yaml has to know: addresses, the user and key for SSH, and the store."""

    head: str
    workers: Sequence[str]
    user: str
    key: str
    store: str


def fill_in_aws(text: str, values: Aws) -> str:
    """Raises: ValueError where `text` has no place for a value."""
    old = _found(text, r"(?m)^  region: (\S+)")
    text = text.replace(f"--region {old}", f"--region {values.region}")
    cpus_gpus = f"{{CPU: {values.cpus}, GPU: {values.gpus}}}"
    for pattern, value in (
        (r"(?m)^  region: (\S+)", values.region),
        (r"(?m)^  availability_zone: (\S+)", ",".join(values.zones)),
        (r"&image (\S+)", values.image),
        (r"&security_groups \[(.*?)\]", values.security_group),
        (r"SWEEP_STORE=s3://([^']+)'", values.bucket),
        (r"&gpu_resources (\{.*?\})", cpus_gpus),
        (r"&gpu_type (\S+)", values.workers[0]),
        (r"(?m)^ *max_workers: ([1-9]\d*)", str(values.max_workers)),
    ):
        text = _put(text, pattern, value)
    text = _without_more_types(text)
    for rank, kind in enumerate(values.workers[1:], start=1):
        text = _with_type(text, kind, rank)
    text = re.sub(r"(?m)^ +KeyName: .*\n", "", re.sub(r"(?m)^  ssh_private_key: .*\n", "", text))
    if values.key:
        text = text.replace("\nauth:\n", f"\nauth:\n  ssh_private_key: ~/.ssh/{values.key}.pem\n")
        text = re.sub(
            r"(?m)^( +)(ImageId: \*image)$", rf"\1KeyName: {values.key}\n\1\2", text, count=1
        )
    return text


def fill_in_local(text: str, values: Local) -> str:
    """Raises: ValueError where `text` has no place for a value."""
    for pattern, value in (
        (r"(?m)^  head_ip: (\S+)", values.head),
        (r"(?m)^  worker_ips: \[(.*?)\]", ", ".join(values.workers)),
        (r"(?m)^  ssh_user: (\S+)", values.user),
        (r"(?m)^  ssh_private_key: (\S+)", values.key),
        (r"SWEEP_STORE=([^']+)'", values.store.rstrip("/")),
    ):
        text = _put(text, pattern, value)
    return text


MORE = "  # Another size with the same GPU, written by `sweep.cluster init`.\n"


def _with_type(text: str, kind: str, rank: int) -> str:
    """`text` with node types for one more instance type, each tried after those before it."""
    for name, priority in (("spot_gpu", 10 - rank), ("on_demand_gpu", -rank)):
        block = _found(text, rf"(?ms)^(  {name}:\n(?:    .*?\n)+)")
        more = re.sub(r"&gpu_resources \{.*?\}", "*gpu_resources", block)
        more = re.sub(r"(&gpu_type \S+|\*gpu_type).*", kind, more)
        more = re.sub(r"(?m)^ *#.*\n", "", more)
        more = re.sub(r"priority: -?\d+.*", f"priority: {priority}", more)
        more = more.replace(f"  {name}:", f"  {name}_{re.sub(r'[^a-z0-9]', '_', kind)}:", 1)
        text = text.replace(block, block + MORE + more, 1)
    return text


def _without_more_types(text: str) -> str:
    return re.sub(rf"(?m)^{re.escape(MORE)}  \w+:\n(?:    .*\n)+", "", text)


def _found(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no place for a value: nothing like `{pattern}` in the file")
    return match[1]


def _put(text: str, pattern: str, value: str) -> str:
    """`text` with `value` for the group of every match."""
    _found(text, pattern)
    for match in reversed(list(re.finditer(pattern, text))):
        text = text[: match.start(1)] + value + text[match.end(1) :]
    return text
