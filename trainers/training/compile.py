"""Options that change the speed and not the meaning: memory layout, torch.compile, CUDA graphs.

They are applied to a model in place, without wrapping it, so that the names in its state_dict stay
the same.
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


def apply_performance_options(
    model: nn.Module, config: TrialConfig, device: torch.device, image_size: int
) -> None:
    """Move `model` to `device` and apply the trial's performance options, all in place.

    image_size: height and width of the model's input, in pixels.

    The trial's option channels_last stores activations as (B, H, W, C), which is faster on CPUs and
    GPUs alike; not with DeepSpeed, which flattens weights and needs the default layout. compile
    applies torch.compile to the forward and backward pass. cuda_graphs replays each of the two
    passes as one CUDA graph; together with compile, by torch.compile's mode "reduce-overhead".

    Raises: ValueError for cuda_graphs on a device that is not CUDA.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise ValueError(
            f"cuda_graphs: needs a CUDA device, this trial runs on {device.type}; set it to false"
        )
    wanted = config.channels_last and config.engine != "deepspeed"
    layout = torch.channels_last if wanted else torch.contiguous_format
    model.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    if config.compile:
        model.compile(mode="reduce-overhead" if config.cuda_graphs else "default")
    elif config.cuda_graphs:
        _use_graphs(model, config, device, image_size)


def eager(config: TrialConfig) -> contextlib.AbstractContextManager[Any]:
    """A context in which a compiled model runs eagerly.

    Measuring uses other batch sizes than training, and each of them would be compiled again.
    """
    return torch.compiler.set_stance("force_eager") if config.compile else contextlib.nullcontext()


def _use_graphs(
    model: nn.Module, config: TrialConfig, device: torch.device, image_size: int
) -> None:
    """Replace `model.forward` by CUDA graphs of the training pass.

    Capturing runs the model a few times, which advances BatchNorm's statistics and the random
    generator, so both are restored afterwards.
    """
    count = config.batch_size // config.accumulate // config.ranks
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    half = HALVES.get(config.precision)
    model.train()
    with (
        torch.random.fork_rng(devices=[device]),
        torch.autocast("cuda", dtype=half, enabled=half is not None, cache_enabled=False),
    ):
        images_BCHW = torch.zeros(count, 3, image_size, image_size, device=device)
        torch.cuda.make_graphed_callables(model, (images_BCHW,))
    model.forward = _GraphedForward(model)
    for name, tensor in model.named_buffers():
        tensor.copy_(buffers[name])


class _GraphedForward:
    """The function with which torch has replaced `model.forward`.

    It computes with the weights of the model from which it was captured, even if it were part of a
    deep copy of that model. So a deep copy gets the plain `forward` of its class instead.
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
