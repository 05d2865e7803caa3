"""Muon: momentum updates, orthogonalised, for matrices; AdamW for all other weights.

Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the scale of its updates is
that of Liu et al. 2025, arXiv 2502.16982.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

Group = dict[str, Any]  # one of torch's parameter groups
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of X <- aX + b(XX')X + c(XX')(XX')X
ITERATIONS = 5
RMS = 0.2  # typical root mean square of an AdamW update at learning rate 1


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the model's linear and convolution layers, without the first and the last layer.

    It is usual to train the first layer, which reads pixels, and the last, which computes the
    embedding, with AdamW. So are grouped convolutions, whose kernels are several matrices.
    """
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    layers = [module for module in model.modules() if isinstance(module, kinds)][1:-1]
    whole = [layer for layer in layers if getattr(layer, "groups", 1) == 1]
    return [w for layer in whole if (w := cast("nn.Parameter", layer.weight)).requires_grad]


def orthogonalised(x_MN: torch.Tensor) -> torch.Tensor:
    """Approximately U V' (M, N) of the singular value decomposition x = U S V', in the dtype of x.

    Five Newton-Schulz iterations on x / |x|; the singular values of the result are about 0.7 to
    1.2. Source: Jordan et al. 2024.
    """
    a, b, c = QUINTIC
    tall = x_MN.shape[0] > x_MN.shape[1]
    y = x_MN.T if tall else x_MN  # the Gram matrix of the smaller side costs less
    y = y / (y.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = y @ y.T
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.T if tall else y


class Muon(Optimizer):
    """Muon for parameter groups with `orthogonal`, AdamW for the others.

    Muon: m <- beta m + (1 - beta) g; w <- w - lr (wd w + 0.2 sqrt(max(M, N)) O(g + beta (m - g))),
    with O `orthogonalised` and kernels (M, C, H, W) reshaped to (M, C H W). The factor makes its
    updates as large as AdamW's, so that one learning rate suits both (Liu et al. 2025).
    AdamW: betas (0.9, 0.999), epsilon 1e-8.

    It is one optimiser and not two, so that engines, checkpoints and the learning rate schedule
    treat it like any other.
    """

    def __init__(self, groups: list[Group], lr: float, momentum: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(groups, defaults | {"weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every weight that has a gradient. closure: not supported."""
        for group in self.param_groups:
            update = _muon_update if group["orthogonal"] else _adamw_update
            for weight in group["params"]:
                if weight.grad is not None:
                    change = update(weight.grad, self.state[weight], group)
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def _muon_update(grad: torch.Tensor, state: dict[str, Any], group: Group) -> torch.Tensor:
    if not state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    beta, mean = group["momentum"], state["momentum_buffer"]
    mean.lerp_(grad, 1 - beta)
    x_MN = grad.lerp(mean, beta).flatten(1)
    scale = RMS * math.sqrt(max(x_MN.shape))
    return (-group["lr"] * scale * orthogonalised(x_MN)).view(grad.shape)


def _adamw_update(grad: torch.Tensor, state: dict[str, Any], group: Group) -> torch.Tensor:
    if not state:
        state["step"] = torch.zeros(())
        state |= {"exp_avg": torch.zeros_like(grad), "exp_avg_sq": torch.zeros_like(grad)}
    mean, square, (one, two) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
    state["step"] += 1
    count = float(state["step"])
    mean.lerp_(grad, 1 - one)
    square.mul_(two).addcmul_(grad, grad, value=1 - two)
    spread = (square / (1 - two**count)).sqrt_().add_(group["eps"])
    return mean / spread * (-group["lr"] / (1 - one**count))
