"""An optimiser's state as named arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from trainers.engines import Arrays

OWN = "own/"  # what the loop hands in beside the engine's arrays


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> Arrays:
    """{optimizer/INDEX/SLOT: tensor}: the state of each weight, in the order of `param_groups`."""
    return slots(optimizer, _weights(optimizer))


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Put back what `optimizer_arrays` took."""
    load_slots(optimizer, _weights(optimizer), arrays)


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def slots(optimizer: torch.optim.Optimizer, weights: Iterable[torch.Tensor]) -> Arrays:
    """The same for weights that are named one by one."""
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, weight in enumerate(weights)
        for name, value in optimizer.state.get(weight, {}).items()
    }


def load_slots(
    optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], arrays: Arrays
) -> None:
    for weight in weights:
        optimizer.state.pop(weight, None)
    for name, tensor in arrays.items():
        if not name.startswith("optimizer/"):
            continue
        _, index, slot = name.split("/")
        weight = weights[int(index)]
        # In its weight's memory layout, so that the arithmetic on it is the same; a counter
        # stays on the CPU, where torch's optimisers keep it.
        place = torch.empty_like(weight, dtype=tensor.dtype) if tensor.dim() else tensor.clone()
        optimizer.state[weight][slot] = place.copy_(tensor)


def with_own(arrays: Arrays, own: Arrays) -> Arrays:
    return arrays | {OWN + name: tensor for name, tensor in own.items()}


def own_of(states: list[Arrays], rank: int) -> Arrays:
    """What a rank handed in, or the first one where there were fewer ranks."""
    state = states[rank] if rank < len(states) else states[0]
    return {n.removeprefix(OWN): t for n, t in state.items() if n.startswith(OWN)}
