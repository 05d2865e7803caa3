"""A cluster file for `ray up`, read as Ray reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "~/.ray/auth_token"  # where Ray looks when neither RAY_AUTH_TOKEN(_PATH) is set
PROVIDERS = ("aws", "gcp", "local")


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file as Ray reads it, its text with the comments, and where `ray up` is run.

    Paths in `file_mounts` are relative to `root`, the folder from which `ray up` is run.
    """

    config: dict[str, Any]
    text: str
    root: Path

    @classmethod
    def of(cls, config: Any, text: str, root: Path) -> ClusterFile:
        """Raises: ValueError where `config` lacks what every cluster file has."""
        provider = config.get("provider") if isinstance(config, dict) else None
        if not isinstance(provider, dict):
            raise ValueError("no provider; expected a cluster file for `ray up`")
        if provider.get("type") not in PROVIDERS:
            raise ValueError(
                f"provider.type: found {provider.get('type')}; rules are for {', '.join(PROVIDERS)}"
            )
        if provider["type"] != "local":
            _check_node_types(config)
        return cls(config, text, root)

    @property
    def provider(self) -> dict[str, Any]:
        return self.config["provider"]

    @property
    def head(self) -> dict[str, Any]:
        return self.config["available_node_types"][self.config["head_node_type"]]

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        types = self.config["available_node_types"]
        return {name: node for name, node in types.items() if name != self.config["head_node_type"]}

    @property
    def node_configs(self) -> dict[str, dict[str, Any]]:
        types = self.config.get("available_node_types", {})
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


def _check_node_types(config: dict[str, Any]) -> None:
    """Raises: ValueError where there is no head among the node types, or one lacks node_config."""
    missing = [key for key in ("head_node_type", "available_node_types") if key not in config]
    if missing:
        raise ValueError(f"no {', '.join(missing)}; expected a cluster file for `ray up`")
    types, head = config["available_node_types"], config["head_node_type"]
    if not isinstance(types, dict) or head not in types:
        raise ValueError(f"head_node_type: `{head}` is not one of available_node_types")
    for name, node in types.items():
        if not isinstance(node, dict) or not isinstance(node.get("node_config"), dict):
            raise ValueError(f"available_node_types: {name}: no node_config")
