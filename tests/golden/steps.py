"""Three steps of training by every objective: the numbers that a recipe stands for.

PYTHONPATH=. python -m tests.golden.steps    # writes steps.json, after RECIPE was raised

The same command adds a kind of machine, from code whose numbers are known to be the recipe's.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from shards.building.build import build
from shards.building.request import Request
from trainers.canonical import make_config
from trainers.config.recipe import RECIPE
from trainers.config.schema import TrialConfig
from trainers.engines.single import Single
from trainers.inputs import TrialInputs, resolve
from trainers.objectives import OBJECTIVES
from trainers.runner import train_student
from trainers.training.checkpoint import Checkpoints, owner_of
from trainers.training.state import Saver

FILE = Path(__file__).with_name("steps.json")
CPU = torch.device("cpu")
DATA = {"dataset": "digits", "teacher": "embedded", "train_samples": 40, "test_samples": 20}
SMALL = {"student": "width:0.25", "arm": "crop_flip", "views": 2, "batch_size": 16}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"objective": name} for name in OBJECTIVES},
    # The rest of the arithmetic of a step: optimisers, schedules, averages, targets, clipping.
    "sgd": {"optimizer": "sgd", "lr": 0.01, "clip_norm": 0.5, "warmup": "2 steps", "ema": 0.9},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "accumulate": 2},
    "muon": {"optimizer": "muon", "target": "phi_s", "objective": "mse"},
    "whitened": {"target": "whitened", "objective": "mse"},
    "pair": {"objective": "infonce", "infonce_positive": "student"},
}


def built(folder: str) -> str:
    """A bank that these trials read."""
    sizes = {"train_samples": 40, "test_samples": 20}
    arms = {"arms": ("crop_flip",), "views": 2, "test_arms": ()}
    build(Request(dataset="digits", teachers=("embedded",), **arms, **sizes), folder)
    return folder


def machine() -> dict[str, str]:
    """Where bits can be expected to be the same."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "torch": str(torch.__version__),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "processor": found[1] if found else "",
    }


def steps_of(bank: str) -> dict[str, dict[str, Any]]:
    """{case: losses of three steps, sums of |weights|, sha256 of the weights}."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, fields in CASES.items():
        config = make_config(DATA | SMALL | fields | {"duration": "3 steps"})
        found[name] = _train(config, resolve(config, bank))
    return found


def _train(config: TrialConfig, inputs: TrialInputs) -> dict[str, Any]:
    splits = inputs.load(CPU)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        saver = Saver(Checkpoints(place, owner_of(config)), 1e9)
        trained = train_student(splits, Single(CPU), saver, rows.append)
    weights = {
        name: tensor.float().contiguous() for name, tensor in trained.student.state_dict().items()
    }
    digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))
    sums = {name: float(weights[name].double().abs().sum()) for name in sorted(weights)}
    losses = [row["loss"] for row in rows]
    return {"losses": losses, "sums": sums, "sha256": digest.hexdigest()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cases = steps_of(built(folder))
    before = json.loads(FILE.read_text())
    others = before["machines"] if before["recipe"] == RECIPE else []
    others = [known for known in others if known["machine"] != machine()]
    document = {"recipe": RECIPE, "machines": [*others, {"machine": machine(), "cases": cases}]}
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
