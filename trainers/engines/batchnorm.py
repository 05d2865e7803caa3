"""BatchNorm in training, its statistics decided from outside the model.

Both modes below take the place of `torch.nn.functional.batch_norm` where it is called with
`training=True` while they are active: in an engine's forward function and nowhere else. No module
is replaced, so the student stays a plain student for whoever copies, measures or saves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

Buffer = torch.Tensor | None


class _Training(TorchFunctionMode):
    """Hands `batch_norm(..., training=True)` to `normalise`, everything else on."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: torch.Tensor,  # the names of functional.batch_norm
        running_mean: Buffer,
        running_var: Buffer,
        weight: Buffer = None,
        bias: Buffer = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        buffers = (running_mean, running_var)
        if not training:
            return functional.batch_norm(input, *buffers, weight, bias, False, momentum, eps)
        return self.normalise(input, buffers, weight, bias, momentum, eps)

    def normalise(
        self,
        x: torch.Tensor,
        running: tuple[Buffer, Buffer],
        weight: Buffer,
        bias: Buffer,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        raise NotImplementedError


# ---- over all ranks ----


class GlobalStatistics(_Training):
    """Mean and variance over the parts of all ranks, which are equally large."""

    @torch.compiler.disable
    def normalise(
        self,
        x: torch.Tensor,
        running: tuple[Buffer, Buffer],
        weight: Buffer,
        bias: Buffer,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        if count == 1:
            raise ValueError(f"BatchNorm: one value a channel in a batch of shape {(*x.shape,)}")
        if x.device.type == "cuda":  # where torch has kernels of its own for this
            from torch.nn.modules._functions import SyncBatchNorm

            group, ranks = dist.group.WORLD, dist.get_world_size()
            return SyncBatchNorm.apply(x, weight, bias, *running, eps, momentum, group, ranks)
        return _Normalise.apply(x, weight, bias, *running, eps, momentum)


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, for x (B, C, ...) of every rank.

    Forward: each rank's mean and sum of squared deviations are gathered, and combined as in
    Chan, Golub & LeVeque 1983 (the difference of two sums would lose digits). Backward: the sums
    of dy and of dy * xhat are reduced; dx = weight / sqrt(var + eps) * (dy - mean(dy) - xhat *
    mean(dy * xhat)). Gradients of weight and bias are of this rank's part: the engine adds them
    up as it does all others.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, running_mean, running_var, eps, momentum):
        ranks, channels = dist.get_world_size(), x.shape[1]
        dims = [0, *range(2, x.dim())]
        ctx.shape = (1, channels, *[1] * (x.dim() - 2))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = wide.numel() // channels
        mean_C = wide.mean(dims)
        squares_C = (wide - mean_C.view(ctx.shape)).square().sum(dims)
        own = torch.stack((mean_C, squares_C))
        parts = [torch.empty_like(own) for _ in range(ranks)]
        dist.all_gather(parts, own)
        mean_RC, squares_RC = torch.stack(parts).unbind(1)
        mean_C = mean_RC.mean(0)
        squares_C = squares_RC.sum(0) + count * (mean_RC - mean_C).square().sum(0)
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean_C, alpha=momentum)
            unbiased_C = squares_C / (count * ranks - 1)
            running_var.mul_(1 - momentum).add_(unbiased_C, alpha=momentum)
        scale_C = (squares_C / (count * ranks) + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean_C, scale_C)
        y = (wide - mean_C.view(ctx.shape)) * scale_C.view(ctx.shape)
        if weight is not None:
            y = y * weight.view(ctx.shape)
        if bias is not None:
            y = y + bias.view(ctx.shape)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        x, weight, mean_C, scale_C = ctx.saved_tensors
        dims = [0, *range(2, x.dim())]
        dy = dy.to(mean_C.dtype)
        xhat = (x.to(mean_C.dtype) - mean_C.view(ctx.shape)) * scale_C.view(ctx.shape)
        own = torch.stack((dy.sum(dims), (dy * xhat).sum(dims)))
        whole = own.clone()
        dist.all_reduce(whole)
        dy_C, dy_xhat_C = whole / (x.numel() // x.shape[1] * dist.get_world_size())
        dx = dy - dy_C.view(ctx.shape) - xhat * dy_xhat_C.view(ctx.shape)
        factor_C = scale_C if weight is None else scale_C * weight
        dx = (dx * factor_C.view(ctx.shape)).to(x.dtype)
        dbias, dweight = (own[i] if ctx.needs_input_grad[2 - i] else None for i in (0, 1))
        return dx, dweight, dbias, None, None, None, None


# ---- one micro-batch at a time, its statistics kept for later ----


class KeptStatistics(_Training):
    """Each micro-batch by its own statistics; running ones are not touched but told apart.

    `taken` gives the means and unbiased variances since it was last asked, as one vector;
    `replay` lets one micro-batch's vector into the running statistics. So they can be updated in
    the order of the micro-batches, wherever each was computed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        self._norms = {id(m.running_mean): m for m in norms if m.running_mean is not None}
        if any(m.momentum is None for m in self._norms.values()):
            raise ValueError("elastic: exact: BatchNorm's momentum must be a number, found None")
        self._seen: list[_BatchNorm] = []
        self._taken: list[torch.Tensor] = []

    @torch.compiler.disable
    def normalise(
        self,
        x: torch.Tensor,
        running: tuple[Buffer, Buffer],
        weight: Buffer,
        bias: Buffer,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        mean_C, var_C = running
        if mean_C is None or var_C is None:
            return functional.batch_norm(x, None, None, weight, bias, True, momentum, eps)
        self._seen.append(self._norms[id(mean_C)])
        own = torch.zeros_like(mean_C), torch.zeros_like(var_C)
        y = functional.batch_norm(x, *own, weight, bias, True, 1.0, eps)
        self._taken += own
        return y

    def taken(self) -> torch.Tensor:
        """The statistics of the micro-batch just computed, all layers' in one vector."""
        vector = torch.cat([t.detach().flatten() for t in self._taken] or [torch.empty(0)])
        self._order, self._seen, self._taken = self._seen, [], []
        return vector

    @torch.no_grad()
    def replay(self, vector: torch.Tensor, own: bool) -> None:
        """`own`: this process ran the layers, so their counters have counted."""
        at = 0
        for norm in self._order:
            assert norm.momentum is not None
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                taken_C = vector[at : at + len(running)].to(running.dtype)
                running.mul_(1 - norm.momentum).add_(taken_C, alpha=norm.momentum)
                at += len(running)
            if not own and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
