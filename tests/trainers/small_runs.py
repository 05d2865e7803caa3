"""Training on the small bank, as the tests of the loop do it."""

from __future__ import annotations

from typing import Any

import torch

from shards.arms import make_arm
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from trainers.engines.single import Single
from trainers.objectives import make_objective
from trainers.results.record import TrialResult
from trainers.students import build_student
from trainers.training.checkpoint import Checkpoints, State, owner_of
from trainers.training.compile import apply_performance_options
from trainers.training.data import Data
from trainers.training.loop import Trained, train
from trainers.training.preemption import PreemptedError
from trainers.training.state import Saver

CPU = torch.device("cpu")
DIM = 512  # of the embedded teacher


def data_of(bank: str, arm: str = "noise:0.1") -> Data:
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "train", (arm,))[arm]
    preprocess = manifest.plan.teachers[0].preprocess.native(manifest.plan.dataset.image_size)
    return Data(split, make_arm(arm), preprocess, CPU)


def checkpoints(config: Any, place: Any) -> Checkpoints:
    return Checkpoints(str(place), owner_of(config))


def run(
    config: Any,
    data: Data,
    place: Any,
    seconds: float = 0.0,
    report: Any = lambda values: None,
    objective: Any = None,
    observe: Any = None,
    **saver: Any,
) -> Trained:
    torch.set_num_threads(1)
    model = build_student(config.student, DIM, 8, config.seed)
    apply_performance_options(model, config, CPU, 8)
    chosen = objective or make_objective(config.objective, config.objective_fields)
    keeping = Saver(checkpoints(config, place), seconds, **saver)
    return train(config, model, chosen, data, Single(CPU), keeping, report, observe)


def stop_at(look: int) -> Any:
    """A `stop` for Saver that is true from the `look`-th time on; with seconds=0: step."""
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= look

    return stop


def left_at(step: int, config: Any, data: Data, place: Any, **options: Any) -> State:
    """What a trial leaves that is asked to go after `step` steps of this process."""
    try:
        run(config, data, place, stop=stop_at(step), **options)
    except PreemptedError:
        found = checkpoints(config, place).latest()
        assert found is not None
        return found
    raise AssertionError("it did not stop")


def without_times(result: TrialResult) -> TrialResult:
    """Equal for two runs of one trial, whatever the clock said."""
    epochs = [row.model_copy(update={"time_ms": 0}) for row in result.epochs]
    return result.model_copy(update={"epochs": epochs})


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "time_ms"} for row in rows]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trained.student.state_dict().items()}
