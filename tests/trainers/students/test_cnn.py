"""The paper's CNN: its layers, its pooling, its arithmetic, and what a student costs."""

import pytest
import torch
from torch import nn

from trainers.students import build_student
from trainers.students.cnn import (
    GridMean,
    cnn,
    cnn_channels,
    cnn_parameters,
    solve_channels,
)
from trainers.students.cost import count_macs, count_parameters


def test_macs_by_hand_and_the_model_is_left_as_it_was():
    student = cnn(cnn_channels(1), 512)
    student.trunk.eval()
    before = {name: t.clone() for name, t in student.state_dict().items()}
    convolutions = 27 * 16 * 32**2 + 9 * 16 * 32 * 16**2 + 9 * 32 * 64 * 8**2
    assert count_macs(student, 32) == convolutions + 1024 * 512 + 512 * 512
    assert student.training
    assert not student.trunk.training
    assert not any(module._forward_hooks for module in student.modules())
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items())


def test_macs_of_grouped_convolutions():
    grouped = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Flatten())
    assert count_macs(grouped, 8) == 6 * 8 * 8 * 9


def test_trunk_does_not_depend_on_the_embedding_dim():
    small, large = (build_student("width:1", dim, 32, seed=0).trunk for dim in (64, 512))
    pairs = zip(small.parameters(), large.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("size", [(8, 8), (56, 56), (7, 7), (1, 1), (2, 3), (12, 9), (57, 30)])
def test_grid_mean_is_adaptive_average_pooling(size):
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    ours, torchs = GridMean()(x_BCHW), nn.AdaptiveAvgPool2d((4, 4))(x_BCHW)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), x_BCHW)
    (expected,) = torch.autograd.grad((torchs * weight).sum(), x_BCHW)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_the_papers_layers_one_by_one():
    torch.manual_seed(0)
    student = cnn(cnn_channels(1), 512).eval()
    c = [m for m in student.trunk if isinstance(m, nn.Conv2d)]
    b = [m for m in student.trunk if isinstance(m, nn.BatchNorm2d)]
    x = images_BCHW = torch.rand(2, 3, 32, 32)
    for layer in range(2):
        x = nn.functional.max_pool2d(torch.relu(b[layer](c[layer](x))), 2)
    x = nn.functional.adaptive_avg_pool2d(torch.relu(b[2](c[2](x))), (4, 4)).flatten(1)
    x = student.head[2](torch.relu(student.head[0](x)))
    torch.testing.assert_close(student(images_BCHW), x)


@pytest.mark.parametrize("side", [32, 9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_relu_after_pooling_has_the_bits_of_the_papers_order(side, layout, precision):
    ours, papers = (build_student("width:1", 16, side, seed=0) for _ in range(2))
    for position in (2, 6):
        pool, relu = papers.trunk[position : position + 2]
        papers.trunk[position], papers.trunk[position + 1] = relu, pool
    assert isinstance(papers.trunk[2], nn.ReLU)
    with torch.no_grad():  # some windows without a positive value, and some of equal ones
        for student in (ours, papers):
            student.trunk[1].bias[:8] = -1.0
            student.trunk[5].weight[:4] = 0.0
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(8, 3, side, side, generator=generator).to(memory_format=layout)
    outputs: list[torch.Tensor] = []
    for student in (ours, papers):
        student.to(memory_format=layout)
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            outputs.append(student(images_BCHW))
        outputs[-1].float().square().sum().backward()
    assert torch.equal(*outputs)
    pairs = zip(ours.parameters(), papers.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_counts_in_closed_form_are_those_of_the_model():
    for channels in ((4, 7, 14), (16, 32, 64), (9, 5, 31)):
        assert cnn_parameters(*channels, 96) == count_parameters(cnn(channels, 96)).total


def test_rounding_is_to_the_nearest_and_halves_go_up():
    assert cnn_channels(0.28125) == (5, 9, 18)  # 4.5, 9, 18
    assert cnn_channels(0.3) == (5, 10, 19)  # 4.8, 9.6, 19.2


def test_solver_finds_the_students_own_channels():
    for width in (0.5, 1, 2, 4):
        total = cnn_parameters(*cnn_channels(width), 512)
        assert solve_channels(total, 512) == cnn_channels(width)
