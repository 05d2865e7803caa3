"""An optimiser's state as named arrays, and back."""

from __future__ import annotations

import torch

from trainers.engines import Arrays


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> Arrays:
    """{INDEX/SLOT: tensor}: the state of each weight, in the order of `param_groups`."""
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    """Put back what `optimizer_arrays` took."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, Arrays] = {}
    for name, tensor in arrays.items():
        kind, index, slot = name.split("/")
        if kind != "optimizer":
            continue
        # In its weight's memory layout, so that the arithmetic on it is the same.
        place = torch.empty_like(weights[int(index)] if tensor.dim() else tensor)
        state.setdefault(int(index), {})[slot] = place.copy_(tensor)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
