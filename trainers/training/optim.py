"""OPTIMIZERS: the optimiser of a trial, by name.

Weight decay is decoupled (Loshchilov & Hutter, arXiv 1711.05101) in adamw and muon; in adam and
sgd it is the classic L2 term, added to the gradient. None of them decays parameters with fewer
than two dimensions: biases, and the scales and shifts of normalisation layers.

A new optimiser is a function (model, config) -> torch.optim.Optimizer and an entry in OPTIMIZERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from shards.support.registry import Table
from trainers.config.schema import TrialConfig
from trainers.training.eager import eager
from trainers.training.muon import Group, Muon, hidden_matrices


def _groups(weights: Iterable[nn.Parameter], decay: float) -> list[Group]:
    """Weights with and without decay, as parameter groups; empty groups are left out."""
    learned = [w for w in weights if w.requires_grad]
    groups: list[Group] = [
        {"params": [w for w in learned if w.ndim >= 2], "weight_decay": decay},
        {"params": [w for w in learned if w.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adam(model: nn.Module, config: TrialConfig) -> Optimizer:
    """Adam with betas (0.9, 0.999) and epsilon 1e-8."""
    return eager(Adam)(_groups(model.parameters(), config.weight_decay), lr=config.lr)


def _adamw(model: nn.Module, config: TrialConfig) -> Optimizer:
    """AdamW with betas (0.9, 0.999) and epsilon 1e-8."""
    return eager(AdamW)(_groups(model.parameters(), config.weight_decay), lr=config.lr)


def _sgd(model: nn.Module, config: TrialConfig) -> Optimizer:
    """SGD with Nesterov momentum, without dampening; plain SGD where `momentum` is 0."""
    groups, momentum = _groups(model.parameters(), config.weight_decay), config.momentum
    return eager(SGD)(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0)


def _muon(model: nn.Module, config: TrialConfig) -> Optimizer:
    """Muon for hidden weight matrices, AdamW for all other parameters; see `Muon`."""
    matrices = hidden_matrices(model)
    orthogonal = {id(w) for w in matrices}
    rest = [w for w in model.parameters() if id(w) not in orthogonal]
    groups = _groups(rest, config.weight_decay)
    if matrices:
        first = {"params": matrices, "weight_decay": config.weight_decay, "orthogonal": True}
        groups = [first, *groups]
    return eager(Muon)(groups, lr=config.lr, momentum=config.momentum)


OPTIMIZERS: Table[Callable[[nn.Module, TrialConfig], Optimizer]] = Table(
    "optimizer", {"adam": _adam, "adamw": _adamw, "sgd": _sgd, "muon": _muon}
)
