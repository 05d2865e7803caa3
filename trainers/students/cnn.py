"""`width:W` and `params:P`: the paper's CNN (arXiv 2603.06698) at any width.

The width is given directly (`width:2` doubles the channels) or solved for a total number of
parameters (`params:2M`).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from trainers.config.student_specs import (
    BASE_CHANNELS,
    LEAST_CHANNELS,
    LEAST_WIDTH,
    MOST_WIDTH,
    SUFFIXES,
    budget_of,
    cnn_channels,
    width_of,
)
from trainers.students.base import Student

HIDDEN = 512  # of the head, at every width
CELLS = 4  # the pooled map is CELLS x CELLS
TOLERANCE = 0.02  # how far a student's parameters may be from its budget, as a share of it


# ---- the specs ----


def student_of_width(argument: str, embedding_dim: int, image_size: int) -> Student:
    """`width:W`: the CNN with 16 W, 32 W and 64 W channels.

    Raises: ValueError for a width that is no positive decimal or out of range.
    """
    width = width_of(argument)
    _check_image_size(image_size)
    return cnn(cnn_channels(width), embedding_dim)


def student_of_budget(argument: str, embedding_dim: int, image_size: int) -> Student:
    """`params:P`: the CNN whose parameters are within 2 % of P in all, at this D.

    P is a decimal with K or M, for thousands or millions.
    Raises: ValueError for another form, or a budget that no width reaches.
    """
    spec, budget = f"student `params:{argument}`", budget_of(argument)
    channels = solve_channels(budget, embedding_dim)
    total = cnn_parameters(*channels, embedding_dim)
    if abs(total - budget) > TOLERANCE * budget:
        if total > budget:
            least = math.ceil(total / (1 + TOLERANCE) / SUFFIXES["K"])
            why = f"a convolution would have fewer than {LEAST_CHANNELS} channels"
            limit = f"smallest reachable is params:{least}K"
        else:
            most = math.floor(total / (1 - TOLERANCE) / SUFFIXES["M"])
            why = f"its width would be above {MOST_WIDTH:g}"
            limit = f"largest reachable is params:{most}M"
        raise ValueError(f"{spec}: at embedding_dim {embedding_dim} {why}; the {limit}")
    _check_image_size(image_size)
    return cnn(channels, embedding_dim)


def _check_image_size(image_size: int) -> None:
    """Raises: ValueError where two halvings of the image would leave no pixel."""
    if image_size < CELLS:
        raise ValueError(
            f"image_size: got {image_size!r}; expected a whole number of {CELLS} or more"
        )


# ---- the network ----


class GridMean(nn.Module):
    """AdaptiveAvgPool2d((4, 4)) with a deterministic backward: (B, C, H, W) -> (B, C, 4, 4).

    Cell i of 4 along an axis of n averages positions floor(i n / 4) to ceil((i + 1) n / 4) - 1.
    The backward pass of torch's layer adds with atomics on CUDA, in an order that differs between
    runs. Where 4 divides H and W plain average pooling computes the same; for other sizes the
    sums are two products with 0/1 matrices, followed by one division.
    """

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        height, width = x_BCHW.shape[-2:]
        if height % CELLS == 0 and width % CELLS == 0:
            return nn.functional.avg_pool2d(x_BCHW, (height // CELLS, width // CELLS))
        rows, columns = _cells(height, x_BCHW), _cells(width, x_BCHW)
        area = rows.sum(dim=1)[:, None] * columns.sum(dim=1)
        return rows @ x_BCHW @ columns.T / area


def _cells(size: int, like: torch.Tensor) -> torch.Tensor:
    """(4, size): 1 where a position belongs to a cell, else 0."""
    cell = torch.arange(CELLS, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)
    inside = (CELLS * (position + 1) > cell * size) & (CELLS * position < (cell + 1) * size)
    return inside.to(like.dtype)


def cnn(channels: tuple[int, int, int], embedding_dim: int) -> Student:
    """[Conv3x3 - BatchNorm - MaxPool2 - ReLU] x2, Conv3x3 - BatchNorm - ReLU - 4x4 mean, MLP.

    The MLP is Linear(16 c3, 512) - ReLU - Linear(512, D); all layers have biases. The windows of
    MaxPool do not overlap, so its backward pass sums nothing and is deterministic too.
    Weights: torch's defaults, drawn first layer to last, so the trunk does not depend on D.

    The paper has ReLU before MaxPool. ReLU is monotone, so the values are the same, and so are the
    gradients: a window without a positive value passes none on in either order. This way ReLU
    works on a quarter of the values.
    """
    c1, c2, c3 = channels
    trunk = nn.Sequential(
        *_normalised(3, c1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *_normalised(c1, c2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *_normalised(c2, c3),
        nn.ReLU(),
        GridMean(),
        nn.Flatten(),
    )
    head = nn.Sequential(
        nn.Linear(CELLS * CELLS * c3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, embedding_dim)
    )
    return Student(trunk, head, channels)


def _normalised(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)


def cnn_parameters(c1: float, c2: float, c3: float, embedding_dim: int) -> float:
    """Parameters of the CNN, biases and batch norms included; channels may be fractions."""
    trunk = 9 * (3 * c1 + c1 * c2 + c2 * c3) + 3 * (c1 + c2 + c3)
    head = (CELLS * CELLS * c3 + 1) * HIDDEN + (HIDDEN + 1) * embedding_dim
    return trunk + head


def solve_channels(budget: float, embedding_dim: int) -> tuple[int, int, int]:
    """The CNN's channels whose total comes closest to `budget` parameters.

    The width is found by bisection over the reals between the smallest and the largest. Each of
    the three channel counts is then rounded, and changed by one where that brings the total
    closer.
    """
    low, high = LEAST_WIDTH, MOST_WIDTH
    for _ in range(60):
        width = (low + high) / 2
        c1, c2, c3 = (base * width for base in BASE_CHANNELS)
        if cnn_parameters(c1, c2, c3, embedding_dim) < budget:
            low = width
        else:
            high = width
    rounded = cnn_channels((low + high) / 2)

    def distance(moves: tuple[int, ...]) -> tuple[float, int]:
        c1, c2, c3 = (c + move for c, move in zip(rounded, moves, strict=True))
        missed = abs(cnn_parameters(c1, c2, c3, embedding_dim) - budget)
        return (math.inf if c1 < LEAST_CHANNELS else missed), sum(map(abs, moves))

    best = min(itertools.product((0, -1, 1), repeat=3), key=distance)
    return rounded[0] + best[0], rounded[1] + best[1], rounded[2] + best[2]
