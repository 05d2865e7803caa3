"""`elastic: exact`: the same bits for any number of ranks that divides `accumulate`.

A step has `accumulate` virtual micro-batches. Each is computed whole by one rank, with its own
BatchNorm statistics and its own objective; ranks own consecutive ones. What a micro-batch yields
(gradient, loss, statistics) is then told to all ranks, and every rank adds it up in the order of
the micro-batches: the same additions, wherever each came from.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trainers.engines.batchnorm import KeptStatistics

Yield = tuple[torch.Tensor, torch.Tensor]  # gradient and loss share (P + 1,); statistics (S,)


class Exact:
    """The ordered sum. The cost is one broadcast of the gradient for each micro-batch."""

    def __init__(
        self, model: nn.Module, weights: list[nn.Parameter], rank: int, ranks: int
    ) -> None:
        _refuse_draws(model)
        self.statistics = KeptStatistics(model)
        self._weights, self._rank, self._ranks = weights, rank, ranks
        self._own: list[Yield] = []

    def share(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The micro-batches of this rank."""
        own = count // self._ranks
        return list(index_B.chunk(count))[self._rank * own : (self._rank + 1) * own]

    def take(self, loss_share: torch.Tensor) -> None:
        """After the backward pass of a micro-batch: what it yielded; gradients are None again."""
        flats = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights]
        flat_P = torch.cat([flat.reshape(-1) for flat in flats])
        loss = loss_share.detach().to(flat_P.dtype).reshape(1)
        self._own.append((torch.cat((flat_P, loss)), self.statistics.taken()))
        for weight in self._weights:
            weight.grad = None

    def add_up(self) -> torch.Tensor:
        """Set gradients and running statistics as of the whole step; its mean loss."""
        own = len(self._own)
        total: torch.Tensor | None = None
        for micro in range(own * self._ranks):
            owner, place = divmod(micro, own)
            mine = owner == self._rank
            flat, statistics = self._own[place]
            if self._ranks > 1:
                flat, statistics = (t if mine else torch.empty_like(t) for t in (flat, statistics))
                dist.broadcast(flat, src=owner)
                if len(statistics):
                    dist.broadcast(statistics, src=owner)
            total = flat.clone() if total is None else total.add_(flat)
            self.statistics.replay(statistics, mine)
        self._own = []
        assert total is not None
        at = 0
        for weight in self._weights:
            part = total[at : at + weight.numel()].view(weight.shape)
            weight.grad = torch.empty_like(weight).copy_(part)  # in the weight's memory layout
            at += weight.numel()
        return total[-1]


def _refuse_draws(model: nn.Module) -> None:
    """Ranks draw from generators of their own. Raises: ValueError where a layer drops at random."""
    for name, layer in model.named_modules():
        drops = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "drop_prob", 0)
        if drops:  # timm's DropPath and DropBlock have a drop_prob
            raise ValueError(
                f"elastic: exact: the student's layer `{name}` drops at random ({drops:g}), on "
                "each rank differently; choose another student, or elastic: order"
            )
