"""ENGINES: where the ranks of a trial run. The only package that uses torch.distributed.

A new engine is a class with the methods of `trainers.engines.base.Engine` in a file of its own,
and an entry in ENGINES.
"""

from __future__ import annotations

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
    """Called before any rank is started.

    Raises: ValueError where the engine cannot run the trial on this machine's devices.
    """
    ENGINES[config.engine].check_installed()
    ENGINES[config.engine].check(config, device)
    if device.type == "cuda" and config.ranks > torch.cuda.device_count():
        raise ValueError(
            f"ranks: {config.ranks}, each needs a GPU of its own; this machine has "
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
        raise ValueError(f"device `{name}`: there are {count}, counted from 0")
    return device
