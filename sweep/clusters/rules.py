"""What engines accept in a file without complaint, and should not be started.

`ray up` has no dry run, and its schema covers neither `node_config` nor shell commands: with one
misspelt key GPUs are billed on demand at several times the price, or every worker fails to start.
A missing file is found when machines are already billed. Each rule is one function from a file to
messages, and its name is shown with them.

Source: Ray's cluster YAML reference, https://docs.ray.io/en/latest/cluster/vms/references/
ray-cluster-configuration.html, and the clouds' own descriptions of their calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sweep.clusters import aws, billed, every_file, gcp, local, rayjob, skypilot
from sweep.clusters.cluster_file import TOKEN, ClusterFile

RULES = {
    "aws": (*every_file.RULES, *billed.RULES, *aws.RULES),
    "gcp": (*every_file.RULES, *billed.RULES, *gcp.RULES),
    "local": (*every_file.RULES, *local.RULES),
    "rayjob": rayjob.RULES,
    "skypilot": skypilot.RULES,
}


def check(text: str, root: Path) -> list[tuple[str, str]]:
    """(rule, message) for everything wrong in `text`: a cluster file of Ray, a RayJob of KubeRay
    or a task of SkyPilot. root: where it is used, for paths in it are relative to that folder.

    The reader is the one that these engines use (YAML 1.1, anchors and merge keys included), and
    not the project's strict one, so that both see the same values.

    Raises: ValueError where `text` is none of these.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None
    if isinstance(config, dict) and "apiVersion" in config:
        return _apply("rayjob", config)
    if isinstance(config, dict) and "run" in config:
        return _apply("skypilot", config)
    file = ClusterFile.of(config, text, root)
    return _apply(file.provider["type"], file)


def _apply(kind: str, file: Any) -> list[tuple[str, str]]:
    rules: tuple[Callable[[Any], Iterator[str]], ...] = RULES[kind]
    return [(rule.__name__, message) for rule in rules for message in rule(file)]


def not_ready(text: str, token_file: Path) -> Iterator[str]:
    """What is left to do before the file is used: values to fill in, and the token of Ray."""
    for number, line in enumerate(text.splitlines(), start=1):
        if "FILL-IN" in line and not line.startswith("#"):
            yield f"line {number}: {line.strip()}"
    if TOKEN not in text:
        return
    if not token_file.is_file():
        yield f"{token_file} is missing; make it with `ray get-auth-token --generate`"
    elif token_file.stat().st_mode & 0o077:
        yield f"{token_file} can be read by others; chmod 600 {token_file}"
