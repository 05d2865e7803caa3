"""OPTIMIZERS: how gradients become a step. And the learning rate's course over a trial.

Weight decay is decoupled (Loshchilov & Hutter, arXiv 1711.05101) in adamw and muon; in adam and
sgd it is the classic L2 term, added to the gradient. In all of them it leaves alone what has
fewer than two dimensions: biases and the scales and shifts of normalisation layers.

The learning rate is a pure function of the step, set before each one: it has no state to save.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from shards.support.registry import Table
from trainers.config.durations import in_steps
from trainers.config.schema import TrialConfig

Group = dict[str, Any]
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of X <- aX + b(XX')X + c(XX')(XX')X
ITERATIONS = 5
RMS = 0.2  # of one AdamW step, at learning rate 1


def _split(weights: Iterable[nn.Parameter], decay: float) -> list[Group]:
    """Weights with and without decay, as parameter groups; groups without a weight are left out."""
    learned = [w for w in weights if w.requires_grad]
    groups: list[Group] = [
        {"params": [w for w in learned if w.ndim >= 2], "weight_decay": decay},
        {"params": [w for w in learned if w.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adam(model: nn.Module, config: TrialConfig) -> Optimizer:
    """Betas (0.9, 0.999), epsilon 1e-8."""
    return Adam(_split(model.parameters(), config.weight_decay), lr=config.lr)


def _adamw(model: nn.Module, config: TrialConfig) -> Optimizer:
    """Betas (0.9, 0.999), epsilon 1e-8."""
    return AdamW(_split(model.parameters(), config.weight_decay), lr=config.lr)


def _sgd(model: nn.Module, config: TrialConfig) -> Optimizer:
    """Nesterov's momentum, without dampening; plain where `momentum` is 0."""
    groups, momentum = _split(model.parameters(), config.weight_decay), config.momentum
    return SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0)


def _muon(model: nn.Module, config: TrialConfig) -> Optimizer:
    matrices = hidden_matrices(model)
    known = {id(w) for w in matrices}
    rest = [w for w in model.parameters() if id(w) not in known]
    groups = _split(rest, config.weight_decay)
    if matrices:
        own = {"params": matrices, "weight_decay": config.weight_decay, "orthogonal": True}
        groups = [own, *groups]
    return Muon(groups, lr=config.lr, momentum=config.momentum)


OPTIMIZERS: Table[Callable[[nn.Module, TrialConfig], Optimizer]] = Table(
    "optimizer", {"adam": _adam, "adamw": _adamw, "sgd": _sgd, "muon": _muon}
)


# ---- Muon ----


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear and convolution layers but the first and the last of them.

    Those see pixels and give the embedding: as usual with Muon they go to AdamW, as do grouped
    convolutions, whose kernels are not one matrix.
    """
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    layers = [module for module in model.modules() if isinstance(module, kinds)][1:-1]
    whole = [layer for layer in layers if getattr(layer, "groups", 1) == 1]
    return [w for layer in whole if (w := cast("nn.Parameter", layer.weight)).requires_grad]


def orthogonalised(x_MN: torch.Tensor) -> torch.Tensor:
    """U V' of x = U S V', roughly: singular values land in about 0.7 to 1.2. In x's own dtype.

    Five Newton-Schulz iterations on x / |x|. Source: Jordan et al. 2024, Muon.
    """
    a, b, c = QUINTIC
    tall = x_MN.shape[0] > x_MN.shape[1]
    y = x_MN.T if tall else x_MN
    y = y / (y.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = y @ y.T
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.T if tall else y


class Muon(Optimizer):
    """Muon for groups with `orthogonal`, AdamW for the others: one optimiser, one state.

    Muon: m <- beta m + (1 - beta) g; w <- w - lr (wd w + 0.2 sqrt(max(M, N)) O(g + beta (m - g))),
    with O `orthogonalised` and kernels (M, C, H, W) taken as (M, C H W). The factor gives its
    steps the size of AdamW's, so that both go by one lr (Liu et al. 2025, arXiv 2502.16982).
    AdamW: betas (0.9, 0.999), epsilon 1e-8.
    """

    def __init__(self, groups: list[Group], lr: float, momentum: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(groups, defaults | {"weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
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


# ---- the learning rate ----


@dataclass(frozen=True)
class Schedule:
    """The learning rate after `step` steps, times `lr`: see `__call__`."""

    lr: float
    kind: str
    warmup: int
    total: int

    @classmethod
    def of(cls, config: TrialConfig, train_samples: int) -> Schedule:
        """Raises: ValueError where the warm-up takes the whole trial."""
        total = config.total_steps(train_samples)
        warmup = in_steps(config.warmup, config.batch_size, train_samples)
        if total and warmup >= total:
            raise ValueError(
                f"warmup: {warmup} steps, but the trial has {total}; choose less than that"
            )
        return cls(config.lr, config.schedule, warmup, total)

    def __call__(self, step: int) -> float:
        """lr (step + 1) / (warmup + 1) while step < warmup, then lr; or, with cosine, then
        lr (1 + cos(pi t)) / 2 with t = (step - warmup) / (total - warmup): it ends near 0.
        """
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.kind == "constant":
            return self.lr
        done = (step - self.warmup) / (self.total - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2


def set_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
