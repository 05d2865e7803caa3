"""Objectives: closed forms, gradients against finite differences, and the contract of all."""

import math
from dataclasses import dataclass

import pytest
import torch

from trainers.objectives import OBJECTIVES, cosine, cosine_infonce, infonce


@dataclass(frozen=True)
class Knobs:
    temperature: float = 0.1
    infonce_weight: float = 1.0


KNOBS = Knobs()


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_cosine_of_equal_opposite_and_orthogonal():
    x_BD = vectors(5, 7)
    assert cosine(x_BD, x_BD, KNOBS).item() == pytest.approx(0, abs=1e-12)
    assert cosine(x_BD, -x_BD, KNOBS).item() == pytest.approx(2, abs=1e-12)
    eye_BD = torch.eye(4, dtype=torch.float64)
    assert cosine(eye_BD, eye_BD.roll(1, 0), KNOBS).item() == pytest.approx(1, abs=1e-12)
    assert cosine(3 * x_BD, 0.1 * x_BD, KNOBS).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_infonce_of_one_hot_vectors(temperature):
    eye_BD = torch.eye(6, dtype=torch.float64)
    expected = math.log(1 + 5 * math.exp(-1 / temperature))
    assert infonce(2 * eye_BD, eye_BD, Knobs(temperature)).item() == pytest.approx(expected)


def test_infonce_is_ln_b_when_nothing_is_told_apart():
    same_BD = torch.ones(6, 3, dtype=torch.float64)
    assert infonce(same_BD, same_BD, KNOBS).item() == pytest.approx(math.log(6))


def test_infonce_goes_from_student_to_teacher():
    student_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    teacher_BD = torch.eye(2, dtype=torch.float64)
    own = math.log(1 + math.exp(-10)), math.log(1 + math.exp(10))
    assert infonce(student_BD, teacher_BD, KNOBS).item() == pytest.approx(sum(own) / 2)
    assert infonce(teacher_BD, student_BD, KNOBS).item() == pytest.approx(math.log(2))


def test_the_sum_is_a_sum():
    x_BD, y_BD = vectors(5, 7), vectors(5, 7, seed=1)
    for weight in (0.0, 0.3, 2.0):
        knobs = Knobs(0.2, weight)
        expected = cosine(x_BD, y_BD, knobs) + weight * infonce(x_BD, y_BD, knobs)
        assert cosine_infonce(x_BD, y_BD, knobs).item() == pytest.approx(expected.item(), abs=1e-14)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_contract(name):
    objective = OBJECTIVES[name]
    x_BD, y_BD = vectors(5, 7).requires_grad_(), vectors(5, 7, seed=1)
    loss = objective(x_BD, y_BD, KNOBS)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss > objective(y_BD, y_BD, KNOBS)  # lower is better
    assert torch.autograd.gradcheck(lambda x: objective(x, y_BD, KNOBS), (x_BD,))
    (gradient,) = torch.autograd.grad(loss, x_BD)
    assert gradient.abs().sum() > 0
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    assert objective(x_BD[order], y_BD[order], KNOBS).item() == pytest.approx(loss.item())
    assert objective(x_BD.float(), y_BD.float(), KNOBS).dtype == torch.float32
