"""One rank of a gang that plays many small trainings, one after the other, in one process.

python -m tests.trainers.engines.worker OUT RUNS.json: each run is {"name", "engine", "fields",
...}, see `runs`; what it gave is saved as OUT/NAME.RANK, a dict of tensors.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.canonical import make_config
from trainers.engines import ENGINES
from trainers.engines.base import Engine
from trainers.objectives import make_objective
from trainers.training.learning_rate import Schedule, set_learning_rate

SAMPLES, SIDE, DIM = 96, 8, 6
FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1", "batch_size": 24}


def student(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(48, 16), nn.BatchNorm1d(16, affine=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(16, DIM)).to(dtype)


def data(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    images = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    teacher = torch.randn(SAMPLES, DIM, generator=generator, dtype=torch.float64)
    return images.to(dtype), nn.functional.normalize(teacher).to(dtype)


def batch_of(step: int, size: int) -> torch.Tensor:
    return torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(step))[:size]


class Training:
    """The loop in miniature: model, optimiser, engine; and what it has seen."""

    def __init__(self, engine: Engine, run: dict[str, Any]) -> None:
        self.run, self.engine = run, engine
        self.dtype = getattr(torch, run.get("dtype", "float32"))
        self.config = make_config(FIELDS | {"engine": run["engine"]} | run.get("fields", {}))
        self.images, self.teacher = data(self.dtype)
        self.model = student(self.dtype)
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[run.get("optimizer", "adam")]
        options = {"lr": run.get("lr", 1e-3)}
        if kind is torch.optim.SGD:
            options["momentum"] = 0.9
        rest = list(self.model.parameters())
        groups = [{"params": rest[:3]}, {"params": rest[3:]}]
        self.optimizer = kind(groups, **options)
        self.losses: list[torch.Tensor] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.optimizer.register_step_pre_hook(self._keep_gradients)
        if run.get("compile"):
            self.model.compile(backend=run["compile"])
        self.forward = engine.prepare(self.model, self.optimizer, self.config)
        self.model.train()

    def _keep_gradients(self, *_: Any) -> None:
        if not self.gradients:
            for name, weight in self.model.named_parameters():
                if weight.grad is not None:
                    self.gradients[name] = weight.grad.clone()

    def steps(self, first: int, last: int) -> None:
        objective = make_objective(self.config.objective, self.config.objective_fields)
        rate = Schedule.of(self.config, SAMPLES)
        for step in range(first, last):
            if self.config.schedule != "constant":
                set_learning_rate(self.optimizer, rate(step))
            index_B = batch_of(step, self.config.batch_size)
            parts = self.engine.micro_batches(index_B, self.config.accumulate)
            for at, part_B in enumerate(parts):
                student_BD = self.engine.gather(self.forward(self.images[part_B]))
                teacher_BD = self.engine.gather(self.teacher[part_B])
                loss = objective(student_BD, teacher_BD)
                if self.run.get("overflow_at") == step:  # the loss as it is, its gradient huge
                    loss = loss + 1e38 * (student_BD - student_BD.detach()).sum()
                self.engine.backward(loss, at + 1 == len(parts))
            self.losses.append(self.engine.step().detach().clone())

    def found(self) -> dict[str, torch.Tensor]:
        with self.engine.full_weights():
            tensors = {f"model/{n}": t.clone() for n, t in self.model.state_dict().items()}
        tensors |= {f"gradient/{name}": tensor for name, tensor in self.gradients.items()}
        state = next(iter(self.engine.gather_state({})), {})  # of the first rank
        tensors |= {n: tensor for n, tensor in state.items() if n.startswith("scaler/")}
        return tensors | {"losses": torch.stack(self.losses)}


def play(engine: Engine, run: dict[str, Any]) -> dict[str, torch.Tensor]:
    """After each of `stops` steps all is saved, and a new model, optimiser and engine go on."""
    training, done = Training(engine, run), 0
    for stop in run.get("stops", []):
        training.steps(done, stop)
        training, done = resumed(training, stop), stop
    training.steps(done, run.get("steps", 50))
    return training.found()


def resumed(training: Training, stop: int) -> Training:
    engine, run = training.engine, training.run
    own = {"random": torch.tensor([engine.rank, 11])}
    states = engine.gather_state(own)
    with engine.full_weights():
        weights = {n: t.clone() for n, t in training.model.state_dict().items()}
    box = [states, weights]
    if engine.ranks > 1:
        torch.save(box, path := f"{sys.argv[1]}/{run['name']}.state{stop}.{engine.rank}")
        engine.broadcast(0)
        box = torch.load(path[:-1] + "0", weights_only=True)
    losses = training.losses
    training = Training(engine, run)
    with engine.full_weights(write=True):
        if engine.rank == 0:
            training.model.load_state_dict(box[1])
    assert torch.equal(engine.load_state(box[0])["random"], own["random"])
    training.losses = losses
    return training


def main() -> None:
    torch.set_num_threads(1)
    out, runs = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    names = list(dict.fromkeys(run["engine"] for run in runs))
    for name in names:
        os.environ["MASTER_PORT"] = os.environ.get(f"PORT_{name}", "0")
        with ENGINES[name](torch.device("cpu")) as engine:
            for run in runs:
                if run["engine"] == name:
                    found = play(engine, run)
                    torch.save(found, f"{out}/{run['name']}.{engine.rank}")


if __name__ == "__main__":
    main()
