"""`elastic: exact`: the same bits for every number of ranks that divides `accumulate`.

A step has `accumulate` micro-batches. Each is computed whole by one rank, with its own BatchNorm
statistics and its own objective; every rank computes consecutive ones. The results of a
micro-batch (gradient, loss, statistics) are then broadcast to all ranks, and every rank adds them
up in the order of the micro-batches. Floating-point addition depends on its order, so this gives
the same sums whichever rank computed which micro-batch; an all-reduce would not.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trainers.engines.batchnorm import MicroBatchStatistics

# Of one micro-batch: gradient and, as its last element, loss share (P + 1,); statistics (S,).
Result = tuple[torch.Tensor, torch.Tensor]


class OrderedSum:
    """Sums gradients in the order of micro-batches, at the cost of one broadcast for each.

    model: the student. weights: the optimiser's parameters, in its order.
    Raises: ValueError where the model has dropout.
    """

    def __init__(
        self, model: nn.Module, weights: list[nn.Parameter], rank: int, ranks: int
    ) -> None:
        _check_no_dropout(model)
        self.statistics = MicroBatchStatistics(model)
        self._weights, self._rank, self._ranks = weights, rank, ranks
        self._results: list[Result] = []

    def share(self, index_B: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The micro-batches that this rank computes of a global batch divided into `count`."""
        each = count // self._ranks
        return list(index_B.chunk(count))[self._rank * each : (self._rank + 1) * each]

    def take(self, loss_share: torch.Tensor) -> None:
        """After the backward pass of a micro-batch: store its results and clear the gradients."""
        flats = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights]
        flat_P = torch.cat([flat.reshape(-1) for flat in flats])
        loss = loss_share.detach().to(flat_P.dtype).reshape(1)
        self._results.append((torch.cat((flat_P, loss)), self.statistics.taken()))
        for weight in self._weights:
            weight.grad = None

    def reduce(self) -> torch.Tensor:
        """Set the gradients and running statistics of the whole step; returns its mean loss."""
        each = len(self._results)
        total: torch.Tensor | None = None
        for micro in range(each * self._ranks):
            owner, index = divmod(micro, each)
            mine = owner == self._rank
            # Shapes are the same on every rank, so this rank's result serves as a receive buffer.
            flat, statistics = self._results[index]
            if self._ranks > 1:
                flat, statistics = (t if mine else torch.empty_like(t) for t in (flat, statistics))
                dist.broadcast(flat, src=owner)
                if len(statistics):
                    dist.broadcast(statistics, src=owner)
            total = flat.clone() if total is None else total.add_(flat)
            self.statistics.replay(statistics, mine)
        self._results = []
        assert total is not None
        start = 0
        for weight in self._weights:
            part = total[start : start + weight.numel()].view(weight.shape)
            weight.grad = torch.empty_like(weight).copy_(part)  # in the weight's memory layout
            start += weight.numel()
        return total[-1]


def _check_no_dropout(model: nn.Module) -> None:
    """Each rank has its own random generator, so dropout would differ with the number of ranks.

    Raises: ValueError naming the first layer with dropout.
    """
    for name, layer in model.named_modules():
        # timm's DropPath and DropBlock have their probability in `drop_prob`.
        drops = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "drop_prob", 0)
        if drops:
            raise ValueError(
                f"elastic: exact: the student's layer `{name}` has dropout ({drops:g}), which "
                "differs between ranks; choose another student, or elastic: order"
            )
