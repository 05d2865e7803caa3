"""BatchNorm with statistics over all ranks, or over one micro-batch, without changing the model.

While one of the two modes below is active, it replaces `torch.nn.functional.batch_norm` where that
is called with `training=True`. Engines activate it in their forward function only. No module is
replaced, as torch's convert_sync_batchnorm would do, so that all other code copies, measures and
saves a student of plain modules.
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


class _TrainingBatchNorm(TorchFunctionMode):
    """Calls `normalise` in place of `batch_norm(..., training=True)`; other calls go to torch."""

    def __init__(self) -> None:
        super().__init__()
        # Here and not as a decorator: it loads the compiler of torch.compile, which takes as long
        # as the rest of torch, and most processes that import this module never train over ranks.
        disabled: Any = torch.compiler.disable(self.normalise)
        self.normalise = disabled

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
        input: torch.Tensor,  # names as in functional.batch_norm, which modules use as keywords
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


class GlobalStatistics(_TrainingBatchNorm):
    """Mean and variance over the parts of a micro-batch on all ranks, which have equal shapes.

    They are those that one process would compute from the whole micro-batch.
    """

    def normalise(  # pyright: ignore[reportIncompatibleMethodOverride]
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
            raise ValueError(
                f"BatchNorm: the batch of shape {(*x.shape,)} has one value for each channel, its "
                "variance needs 2 or more; choose a larger batch_size"
            )
        if x.device.type == "cuda":  # torch has fused kernels for this, on CUDA only
            from torch.nn.modules._functions import SyncBatchNorm

            group, ranks = dist.group.WORLD, dist.get_world_size()
            return SyncBatchNorm.apply(x, weight, bias, *running, eps, momentum, group, ranks)
        return _Normalise.apply(x, weight, bias, *running, eps, momentum)


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, for x (B, C, ...) of every rank.

    Forward: each rank's mean and sum of squared deviations are gathered and combined as in Chan,
    Golub & LeVeque 1983, because E[x^2] - E[x]^2 would lose digits.
    Backward: the sums of dy and of dy * xhat are all-reduced, and
    dx = weight / sqrt(var + eps) * (dy - mean(dy) - xhat * mean(dy * xhat)).
    Gradients of weight and bias are of this rank's part only: the engine reduces them over ranks
    like all others.
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
        local = torch.stack((mean_C, squares_C))
        parts = [torch.empty_like(local) for _ in range(ranks)]
        dist.all_gather(parts, local)
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
    def backward(ctx: Any, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean_C, scale_C = ctx.saved_tensors
        dims = [0, *range(2, x.dim())]
        dy = dy.to(mean_C.dtype)
        xhat = (x.to(mean_C.dtype) - mean_C.view(ctx.shape)) * scale_C.view(ctx.shape)
        local = torch.stack((dy.sum(dims), (dy * xhat).sum(dims)))
        total = local.clone()
        dist.all_reduce(total)
        dy_C, dy_xhat_C = total / (x.numel() // x.shape[1] * dist.get_world_size())
        dx = dy - dy_C.view(ctx.shape) - xhat * dy_xhat_C.view(ctx.shape)
        factor_C = scale_C if weight is None else scale_C * weight
        dx = (dx * factor_C.view(ctx.shape)).to(x.dtype)
        dbias, dweight = (local[i] if ctx.needs_input_grad[2 - i] else None for i in (0, 1))
        return dx, dweight, dbias, None, None, None, None


# ---- over one micro-batch ----


class MicroBatchStatistics(_TrainingBatchNorm):
    """Each micro-batch is normalised by its statistics; the running ones are updated later.

    With `elastic: exact` a rank computes only some of the micro-batches, but running statistics
    must be updated with all of them, in order. So a forward pass only collects its statistics.
    `taken` returns them as one vector, which is sent to all ranks, and there `replay` updates the
    running statistics with it.

    Raises: ValueError where a layer averages over all batches (momentum None): the update by
    `replay` needs a number.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        # functional.batch_norm gets the buffers and not the module, so modules are found by them.
        self._norms = {id(m.running_mean): m for m in norms if m.running_mean is not None}
        if any(m.momentum is None for m in self._norms.values()):
            raise ValueError("elastic: exact: BatchNorm's momentum must be a number, found None")
        self._seen: list[_BatchNorm] = []
        self._order: list[_BatchNorm] = []
        self._taken: list[torch.Tensor] = []

    def normalise(  # pyright: ignore[reportIncompatibleMethodOverride]
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
        # With momentum 1 torch writes the batch's mean and unbiased variance into these buffers.
        batch = torch.zeros_like(mean_C), torch.zeros_like(var_C)
        y = functional.batch_norm(x, *batch, weight, bias, True, 1.0, eps)
        self._taken += batch
        return y

    def taken(self) -> torch.Tensor:
        """Means and unbiased variances of the micro-batch just computed, as one vector (S,)."""
        vector = torch.cat([t.detach().flatten() for t in self._taken] or [torch.empty(0)])
        self._order, self._seen, self._taken = self._seen, [], []
        return vector

    @torch.no_grad()
    def replay(self, vector: torch.Tensor, local: bool) -> None:
        """Update the running statistics with the vector (S,) of one micro-batch.

        local: whether this rank computed the micro-batch. Its BatchNorm modules have then counted
        it in `num_batches_tracked` already.
        """
        start = 0
        for norm in self._order:
            assert norm.momentum is not None
            for running in (norm.running_mean, norm.running_var):
                assert running is not None
                taken_C = vector[start : start + len(running)].to(running.dtype)
                running.mul_(1 - norm.momentum).add_(taken_C, alpha=norm.momentum)
                start += len(running)
            if not local and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
