"""How fast a machine is at the parts of a sweep: measured once, recorded, and used for plans.

    python -m sweep.run --grid full --dry-run                          # measures what is missing
    python -m sweep.run --grid full --dry-run --calibrate --calibration l4.yaml     # on the GPU
    python -m sweep.run --grid full --dry-run --calibration l4.yaml --gpus 8        # anywhere

Seconds are of one GPU, or of one CPU core; those of a core are CPU seconds, so that other programs
on the machine do not count. What is measured on this machine is kept in the cache folder.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from shards.support import storage
from shards.support.cache import cache_folder
from shards.support.schema import StrictModel, validated
from shards.support.yaml_reader import parse_mapping

METHOD = 2  # how things are measured; times of another method are not used


class Overhead(StrictModel):
    """Seconds that a sweep takes besides building, training and measuring.

    Estimates for two CPU cores; benchmarks/plan_check.py compares a plan that uses them with a run.

    base: CPU seconds of a sweep that starts its own Ray, without any trial: Ray's processes, driver
    and upload. start: wall-clock until the first trial of a sweep may begin: imports and Ray's
    start. worker: of a process before its first trial. trial: of each trial. behind: of driver and
    upload to MLflow for each trial; they run beside the trials, and the upload after them.
    """

    base: float = 28.0
    start: float = 12.0
    worker: float = 5.0
    trial: float = 0.7
    behind: float = 1.4


class StudentSpeed(StrictModel):
    """Seconds of a training sample (forward, backward, optimiser) and of embedding an image.

    macs: multiply-accumulates of one image, by which other students are estimated.
    """

    macs: int
    train: float
    embed: float


class Measuring(StrictModel):
    """The arithmetic of a trial's probes on `train` and `test` images, and what they embed.

    seconds: of the arithmetic. train_views, test_views: how often a student embeds every image of a
    split, the clean pass included.
    """

    train: int
    test: int
    seconds: float
    train_views: int
    test_views: int


class Calibration(StrictModel):
    """What was measured on one kind of machine.

    device: `cpu`, or the name of the GPU. students: {student, input and teacher: speed}. arms:
    {arm and sizes: seconds of augmenting and preprocessing an image}. measuring: {probes and what
    they are run under}. curves: {size: seconds of an observation besides embedding}. teachers:
    {teacher and image size: seconds an image}.
    """

    device: str
    machine: str = ""
    date: str = ""
    overhead: Overhead = Overhead()
    students: Mapping[str, StudentSpeed] = Field(default_factory=dict)
    arms: Mapping[str, float] = Field(default_factory=dict)
    measuring: Mapping[str, Measuring] = Field(default_factory=dict)
    curves: Mapping[str, float] = Field(default_factory=dict)
    teachers: Mapping[str, float] = Field(default_factory=dict)

    def entry(self, part: str, key: str) -> Any:
        """Raises: ValueError where nothing was measured of `key` in that part."""
        entries: Mapping[str, Any] = getattr(self, part)
        if key not in entries:
            raise ValueError(
                f"calibration of {self.device}: no {part} of `{key}`; record it on such a machine: "
                "sweep.run --grid GRID --dry-run --calibrate --calibration FILE"
            )
        return entries[key]

    def joined(self, other: Calibration) -> Calibration:
        """This one with the entries of `other`, which win."""
        parts = ("students", "arms", "measuring", "curves", "teachers")
        more = {part: {**getattr(self, part), **getattr(other, part)} for part in parts}
        return self.model_copy(update={**more, "date": other.date or self.date})


def read_calibration(path: str) -> Calibration:
    """A recorded calibration. Raises: ValueError, of one line, for a wrong file; OSError."""
    text = storage.read(path).decode(errors="replace")
    return validated(Calibration, parse_mapping(text, path), path)


def write_calibration(path: str, calibration: Calibration) -> None:
    """JSON, which is YAML as well. Raises: OSError."""
    storage.write_json(path, calibration.model_dump(mode="json"))


def own_file() -> Path:
    """Where the calibration of this machine is kept."""
    name = f"{this_device()}-{machine()}-{torch.__version__}-{METHOD}"
    return (
        cache_folder() / "calibration" / f"{''.join(c if c.isalnum() else '-' for c in name)}.yaml"
    )


def own_calibration() -> Calibration:
    """What was measured on this machine before; empty where nothing was, or it is damaged."""
    try:
        return read_calibration(str(own_file()))
    except (OSError, ValueError):
        return Calibration(device=this_device(), machine=machine(), date=today())


def this_device() -> str:
    """`cpu`, or the name of this machine's GPU."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def machine() -> str:
    """Processor, instruction set and cores."""
    kind = platform.processor() or platform.machine()
    return f"{kind} {torch.backends.cpu.get_cpu_capability()} {os.cpu_count()} cores"


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
