"""Rules for a task file of SkyPilot: what would cost results or money, unasked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Task = dict[str, Any]


def _choices(task: Task) -> list[dict[str, Any]]:
    """The resources among which SkyPilot chooses."""
    resources = task.get("resources") or {}
    return [resources | choice for choice in resources.get("any_of") or [{}]]


def one_machine(task: Task) -> Iterator[str]:
    """With more nodes, one that is taken away ends the work of all."""
    if task.get("num_nodes", 1) != 1:
        yield "num_nodes must be 1: launch several jobs, which share a store by --join"


def gpus(task: Task) -> Iterator[str]:
    for choice in _choices(task):
        found = choice.get("accelerators")
        if not isinstance(found, str) or "," in found:
            yield f"resources.accelerators: found {found}; expected one type, such as L4:1"


def spot(task: Task) -> Iterator[str]:
    if not any(choice.get("use_spot") for choice in _choices(task)):
        yield "resources: billed on demand; give use_spot: true, or any_of with it"


def closed(task: Task) -> Iterator[str]:
    if any(choice.get("ports") for choice in _choices(task)):
        yield "resources.ports: nothing here is to be reached from outside"


def pinned(task: Task) -> Iterator[str]:
    installs = [line for line in str(task.get("setup")).splitlines() if "pip install" in line]
    for line in installs or ["no pip install"]:
        if "-c constraints.txt" not in line:
            yield f"setup: not pinned, add -c constraints.txt: {line.strip()}"


def sees_gpu(task: Task) -> Iterator[str]:
    setup = str(task.get("setup"))
    if "torch.cuda.is_available()" not in setup:
        yield "setup does not check torch.cuda.is_available(): trials would train on the CPU"
    if not setup.lstrip().startswith("set -e"):
        yield "setup: begin with set -e, or only its last command can fail it"


def sweep(task: Task) -> Iterator[str]:
    for part in ("sweep.run", "--join", "--store", "--gpus-per-trial"):
        if part not in str(task.get("run")):
            yield f"run lacks {part}"


def secrets(task: Task) -> Iterator[str]:
    if re.search(r"AKIA[0-9A-Z]{16}|aws_secret|PRIVATE KEY", str(task), re.IGNORECASE):
        yield "a credential in the file; use `sky jobs launch --secret`"


RULES: tuple[Callable[[Task], Iterator[str]], ...] = (
    *(one_machine, gpus, spot, closed, pinned, sees_gpu, sweep, secrets),
)
