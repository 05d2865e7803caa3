"""Ways to the same numbers in less time: memory layout, torch.compile, CUDA graphs.

They are applied to a model from outside, in place: its state_dict keeps its names.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from trainers.config.schema import TrialConfig

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def quick(model: nn.Module, config: TrialConfig, device: torch.device, side: int) -> nn.Module:
    """`model` on `device`, as the trial says; `side`: pixels of its square input.

    channels_last: convolutions as (B, H, W, C) in memory, which is faster on CPUs and GPUs
    alike; DeepSpeed sends weights as flat bytes and takes plain ones only.
    compile: torch.compile of the forward and backward pass. cuda_graphs: both replayed as one
    CUDA graph each; with compile, by its own mode for that.
    Raises: ValueError for cuda_graphs on a device that is not CUDA.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise ValueError(
            f"cuda_graphs: needs a CUDA device, this trial runs on {device.type}; set it to false"
        )
    wanted = config.channels_last and config.engine != "deepspeed"
    layout = torch.channels_last if wanted else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    if config.compile:
        model.compile(mode="reduce-overhead" if config.cuda_graphs else "default")
    elif config.cuda_graphs:
        _graphed(model, config, device, side)
    return model


def eager(config: TrialConfig) -> contextlib.AbstractContextManager[Any]:
    """Inside, a compiled model runs as it is written: what is measured is never recompiled."""
    return torch.compiler.set_stance("force_eager") if config.compile else contextlib.nullcontext()


def _graphed(model: nn.Module, config: TrialConfig, device: torch.device, side: int) -> None:
    """Graphs of the training pass in the place of `model.forward`; weights and draws as before.

    Recording runs the model a few times, which moves BatchNorm's statistics and the generator.
    """
    count = config.batch_size // config.accumulate // config.ranks
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    half = HALVES.get(config.precision)
    model.train()
    with (
        torch.random.fork_rng(devices=[device]),
        torch.autocast("cuda", dtype=half, enabled=half is not None, cache_enabled=False),
    ):
        images_BCHW = torch.zeros(count, 3, side, side, device=device)
        torch.cuda.make_graphed_callables(model, (images_BCHW,))
    model.forward = _Replayed(model)
    for name, tensor in model.named_buffers():
        tensor.copy_(buffers[name])


class _Replayed:
    """What torch has put in the place of `model.forward`; a copy of the model has its own instead.

    Torch's function would compute with the weights of the model it was made of, in a copy too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._replay: Callable[..., Any] = model.__dict__["forward"]
        self._model = weakref.ref(model)

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self._replay(images_BCHW)

    def __deepcopy__(self, memo: dict[int, Any]) -> MethodType:
        model = self._model()
        assert model is not None
        return MethodType(type(model).forward, memo[id(model)])
