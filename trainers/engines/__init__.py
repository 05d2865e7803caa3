"""ENGINES: how the ranks of a trial train together. Only this package uses torch.distributed.

To add an engine, write a class with the methods of `trainers.engines.base.Engine` in a new file,
and list it in ENGINES.
"""

from __future__ import annotations

import os
import re

import torch

from shards.support.registry import Table
from trainers.config.schema import TrialConfig
from trainers.engines.base import Engine
from trainers.engines.ddp import DDP
from trainers.engines.deepspeed import DeepSpeed
from trainers.engines.single import Single

ENGINES: Table[type[Engine]] = Table(
    "engine", {"single": Single, "ddp": DDP, "deepspeed": DeepSpeed}
)


def check_engine(config: TrialConfig, device: torch.device) -> None:
    """Check, before any rank is started, that the engine can run the trial on this machine.

    Raises: ValueError where a library is missing, or devices are of the wrong kind or too few.
    """
    ENGINES[config.engine].check_installed()
    ENGINES[config.engine].check(config, device)
    # Ranks that were started on several machines know how many there are on theirs.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", config.ranks))
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise ValueError(
            f"ranks: {here}, each needs a GPU of its own; this machine has "
            f"{torch.cuda.device_count()}"
        )


def choose_device(name: str = "auto") -> torch.device:
    """The device named `name`; `auto` is the first CUDA device, or the CPU where there is none.

    Raises: ValueError where the name is unknown or the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device `{name}`: choose auto, cpu, cuda or cuda:INDEX")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and not count:
        raise ValueError(f"device `{name}`: no CUDA device is available; choose cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"device `{name}`: this machine has {count} CUDA devices, numbered from 0")
    return device
