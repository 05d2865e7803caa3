"""What every student is, the paper's CNN (arXiv 2603.06698) at any width, and what one costs.

`trainers.students` names students, builds and stores them; here is their arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

BASE_CHANNELS = (16, 32, 64)  # of the three convolutions at width 1
HIDDEN = 512  # of the head, at every width
CELLS = 4  # the pooled map is CELLS x CELLS
LEAST_CHANNELS = 4
LEAST_WIDTH = (LEAST_CHANNELS - 0.5) / BASE_CHANNELS[0]  # 0.21875 rounds to 4, 7, 14 channels
MOST_WIDTH = 64.0  # 1,024 to 4,096 channels: a slip of the keyboard, not a student


class Student(nn.Module):
    """float images (B, 3, H, W) -> raw embeddings (B, D), as `head(trunk(images))`.

    `trunk` maps images to vectors (B, F'); the last module of `head` is the linear layer that
    gives the embedding. `channels` are those of the CNN's convolutions, () for other students.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Sequential, channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.channels = trunk, head, channels

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The penultimate representation (B, F): what `head[-1]` takes."""
        x_BF = self.trunk(images_BCHW)
        for layer in list(self.head)[:-1]:
            x_BF = layer(x_BF)
        return x_BF

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.head[-1](self.features(images_BCHW))


class GridMean(nn.Module):
    """AdaptiveAvgPool2d((4, 4)) with a deterministic backward: (B, C, H, W) -> (B, C, 4, 4).

    Cell i of 4 along an axis of n averages positions floor(i n / 4) to ceil((i + 1) n / 4) - 1.
    torch's own has an order-dependent backward on CUDA; here plain average pooling serves where
    4 divides H and W, and elsewhere sums as two products with 0/1 matrices, then one division.
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
    place = torch.arange(size, device=like.device)
    inside = (CELLS * (place + 1) > cell * size) & (CELLS * place < (cell + 1) * size)
    return inside.to(like.dtype)


def cnn(channels: tuple[int, int, int], embedding_dim: int) -> Student:
    """[Conv3x3 - BatchNorm - ReLU - MaxPool2] x2, Conv3x3 - BatchNorm - ReLU - 4x4 mean, MLP.

    The MLP is Linear(16 c3, 512) - ReLU - Linear(512, D); all layers have biases. MaxPool's
    windows do not overlap, so its backward adds nothing up and is deterministic too.
    Weights: torch's defaults, drawn first layer to last, so the trunk does not depend on D.
    """
    c1, c2, c3 = channels
    trunk = nn.Sequential(
        *_block(3, c1),
        nn.MaxPool2d(2),
        *_block(c1, c2),
        nn.MaxPool2d(2),
        *_block(c2, c3),
        GridMean(),
        nn.Flatten(),
    )
    head = nn.Sequential(
        nn.Linear(CELLS * CELLS * c3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, embedding_dim)
    )
    return Student(trunk, head, channels)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def cnn_channels(width: float) -> tuple[int, int, int]:
    """16w, 32w, 64w, each rounded on its own (halves up)."""
    c1, c2, c3 = (math.floor(base * width + 0.5) for base in BASE_CHANNELS)
    return c1, c2, c3


def cnn_parameters(c1: float, c2: float, c3: float, embedding_dim: int) -> float:
    """Parameters of the CNN, biases and batch norms included; real channels are welcome."""
    trunk = 9 * (3 * c1 + c1 * c2 + c2 * c3) + 3 * (c1 + c2 + c3)
    head = (CELLS * CELLS * c3 + 1) * HIDDEN + (HIDDEN + 1) * embedding_dim
    return trunk + head


def solve_channels(budget: float, embedding_dim: int) -> tuple[int, int, int]:
    """The CNN's channels whose total comes closest to `budget` parameters.

    The width is found by bisection over the reals between the smallest and the largest, channels
    are rounded one by one, then each may move by one where that brings the total closer.
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

    def badness(moves: tuple[int, ...]) -> tuple[float, int]:
        c1, c2, c3 = (c + move for c, move in zip(rounded, moves, strict=True))
        missed = abs(cnn_parameters(c1, c2, c3, embedding_dim) - budget)
        return (math.inf if c1 < LEAST_CHANNELS else missed), sum(map(abs, moves))

    best = min(itertools.product((0, -1, 1), repeat=3), key=badness)
    return rounded[0] + best[0], rounded[1] + best[1], rounded[2] + best[2]


# ---- what a student costs ----


@dataclass(frozen=True)
class ParameterCount:
    """Learned numbers (running statistics are not): total = trunk + head."""

    trunk: int
    head: int
    total: int


def count_parameters(model: Student) -> ParameterCount:
    """Parameters of the feature extractor, of the linear layers after it, and of both."""
    trunk = sum(p.numel() for p in model.trunk.parameters())
    head = sum(p.numel() for p in model.head.parameters())
    return ParameterCount(trunk, head, trunk + head)


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image in convolution and linear layers (biases not counted).

    Each output of such a layer costs as many as one of its filters has weights. Attention's own
    products are not counted. Runs on the meta device; the model is left as it was.
    """
    macs = 0

    def add(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal macs
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        macs += output.numel() * math.prod(weight.shape[1:])

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors}
    try:
        model.eval()
        with on_meta(), torch.no_grad():
            images_BCHW = torch.empty(1, 3, image_size, image_size)
            torch.func.functional_call(model, shapes, (images_BCHW,))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return macs


@contextmanager
def on_meta() -> Iterator[None]:
    """Shapes only: no memory, no arithmetic, and torch's global CPU generator as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield
