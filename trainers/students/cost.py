"""What a student costs: its parameters, and the multiply-accumulates of one image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainers.students.base import Student


@dataclass(frozen=True)
class ParameterCount:
    """Learned parameters, without BatchNorm's running statistics: total = trunk + head."""

    trunk: int
    head: int
    total: int


def count_parameters(model: Student) -> ParameterCount:
    """Parameters of the feature extractor, of the linear layers after it, and of both."""
    trunk = sum(p.numel() for p in model.trunk.parameters())
    head = sum(p.numel() for p in model.head.parameters())
    return ParameterCount(trunk, head, trunk + head)


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image in convolution and linear layers, biases not counted.

    Each output of such a layer costs one multiply-accumulate for each weight of its filter. The
    products of queries, keys and values in attention are not counted. The model is not changed.

    An image of zeros passes through weights of zeros. The meta device would only compute shapes,
    but its first operation makes torch import parts of its compiler, which takes seconds.
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
    # Not `zeros_like`, for the model may be on the meta device.
    zeros = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
    try:
        model.eval()
        with torch.device("cpu"), torch.no_grad():
            images_BCHW = torch.zeros(1, 3, image_size, image_size)
            torch.func.functional_call(model, zeros, (images_BCHW,))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return macs


@contextmanager
def on_meta() -> Generator[None]:
    """Inside, tensors have shapes only: no memory, no arithmetic.

    torch's global CPU generator is restored afterwards, because initialising weights on the meta
    device advances it too.
    """
    with (
        torch.random.fork_rng(devices=[]),  # pyright: ignore[reportUnknownMemberType]
        torch.device("meta"),
    ):
        yield
