"""Trials of one architecture trained together, with stacked weights, against one after another.

    python benchmarks/packing.py                 # 4 students of width 1 at 32 pixels, 1 thread

Trials that differ in their seed alone can be trained together: their weights are stacked and
`torch.func.vmap` runs one forward and backward pass for all. For packing to be of use here, every
student must stay bitwise equal to the same student trained alone, and the step must be faster.
Reported are CPU seconds a step and student, and whether the weights after STEPS steps are equal.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from notebook import paper_student
from ratios import Ratio, finish
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cosine_similarity

STUDENTS, BATCH, DIM, SIDE, STEPS, LR = 4, 64, 512, 32, 20, 1e-3


def student(seed: int) -> nn.Module:
    """The paper's student; BatchNorm without running statistics, whose update vmap refuses."""
    torch.manual_seed(seed)
    made = paper_student(1)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return made


def batches() -> list[tuple[Tensor, Tensor]]:
    """STEPS batches for each student: images (M, B, 3, SIDE, SIDE), targets (M, B, D)."""
    rng = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(STUDENTS, BATCH, 3, SIDE, SIDE, generator=rng),
            torch.randn(STUDENTS, BATCH, DIM, generator=rng),
        )
        for _ in range(STEPS)
    ]


def loss_of(embedding_BD: Tensor, target_BD: Tensor) -> Tensor:
    return (1 - cosine_similarity(embedding_BD, target_BD, dim=-1)).mean()


def timed(step: Callable[[Tensor, Tensor], None], data: list[tuple[Tensor, Tensor]]) -> float:
    """Median CPU seconds of a step."""
    seconds: list[float] = []
    for images, targets in data:
        start = time.process_time()
        step(images, targets)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[2:])


def solo(data: list[tuple[Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
    """(CPU seconds a step and student, the weights at the end) of students one after another."""
    seconds: list[float] = []
    weights: list[Tensor] = []
    for number in range(STUDENTS):
        model = student(number)
        parameters = list(model.parameters())

        def step(
            images: Tensor,
            targets: Tensor,
            number: int = number,
            model: nn.Module = model,
            parameters: list[nn.Parameter] = parameters,
        ) -> None:
            loss = loss_of(model(images[number]), targets[number])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=LR)

        seconds.append(timed(step, data))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    return statistics.mean(seconds), weights


def stacked(data: list[tuple[Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
    """As `solo`, of students whose weights are stacked."""
    models = [student(number) for number in range(STUDENTS)]
    weights, buffers = stack_module_state(models)
    frame = student(0).to("meta")

    def loss(own: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return loss_of(functional_call(frame, (own, buffers), (images,)), targets)

    gradients_of = vmap(grad(loss))

    def step(images: Tensor, targets: Tensor) -> None:
        gradients = gradients_of(weights, images, targets)
        with torch.no_grad():
            for name, gradient in gradients.items():
                weights[name].sub_(gradient, alpha=LR)

    seconds = timed(step, data) / STUDENTS
    return seconds, [
        torch.cat([weights[name][number].detach().flatten() for name in weights])
        for number in range(STUDENTS)
    ]


def main() -> int:
    torch.set_num_threads(1)
    data = batches()
    alone, weights = solo(data)
    together, packed = stacked(data)
    apart = max(float((a - b).abs().max()) for a, b in zip(weights, packed, strict=True))
    equal = all(torch.equal(a, b) for a, b in zip(weights, packed, strict=True))
    print(f"CPU s a step: alone {alone:.4f}, stacked {together:.4f}")
    print(f"stacked weights equal bit for bit: {equal}; largest difference {apart:.2g}")
    size = f"width 1 at {SIDE} pixels"
    return finish(
        [
            Ratio(
                f"a step of {STUDENTS} students with stacked weights against one each, {size}",
                alone / together,
                measured=f"{together:.4f} against {alone:.4f} CPU s; bitwise equal: {equal}",
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
