"""What ranks tell each other; each function is called by all ranks, in the same order."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from trainers.engines import Arrays


class _Gather(torch.autograd.Function):
    """Backward: this rank's slice of the gradient, times the number of ranks. See `gather`."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        ranks, rank = dist.get_world_size(), dist.get_rank()
        return gradient.chunk(ranks)[rank] * ranks


def gather(part_BD: torch.Tensor) -> torch.Tensor:
    """The parts of all ranks, which are equally large, one after the other.

    Every rank goes on to compute the same loss of the whole, so its gradient is known here
    without asking: a rank takes its own slice. That is the part of the gradient of the loss
    that flows through this rank; the parts of all ranks sum up to the whole gradient. The
    engines average over ranks (DDP and DeepSpeed both do), hence the factor.
    """
    return _Gather.apply(part_BD.contiguous())


def agree(value: int, device: torch.device) -> int:
    box = torch.tensor(value, device=device)
    dist.broadcast(box, src=0)
    return int(box)


def any_of(flag: bool, device: torch.device) -> bool:
    box = torch.tensor(int(flag), device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return bool(box)


def copy_from_first(tensors: list[torch.Tensor]) -> None:
    """What the first rank holds, into every rank's tensors, in place."""
    for tensor in tensors:
        whole = tensor.detach().contiguous()  # a broadcast takes no other layout
        dist.broadcast(whole, src=0)
        tensor.detach().copy_(whole)


def arrays_of_all(arrays: Arrays, device: torch.device) -> list[Arrays]:
    """Each rank's arrays on the first rank, on the CPU; [] on others. They may differ in shape."""
    heads = [[name, str(t.dtype).removeprefix("torch."), t.shape] for name, t in arrays.items()]
    head = torch.frombuffer(bytearray(json.dumps(heads).encode()), dtype=torch.uint8)
    body = torch.cat([_bytes(t) for t in arrays.values()] or [torch.empty(0, dtype=torch.uint8)])
    if dist.get_rank():
        _send(head, device)
        _send(body, device)
        return []
    found = [{name: tensor.detach().cpu() for name, tensor in arrays.items()}]
    for rank in range(1, dist.get_world_size()):
        heads = json.loads(bytes(_receive(rank, device).tolist()))
        found.append(_unpacked(heads, _receive(rank, device)))
    return found


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return plain.flatten().view(torch.uint8)  # one element may be contiguous with any stride


def _unpacked(heads: list[tuple[str, str, list[int]]], body: torch.Tensor) -> Arrays:
    arrays: Arrays = {}
    for name, kind, shape in heads:
        like = torch.empty(shape, dtype=getattr(torch, kind))
        size = like.numel() * like.element_size()
        like.flatten().view(torch.uint8).copy_(body[:size])
        arrays[name], body = like, body[size:]
    return arrays


def _send(data: torch.Tensor, device: torch.device) -> None:
    dist.send(torch.tensor(len(data), device=device), dst=0)
    dist.send(data.to(device), dst=0)


def _receive(rank: int, device: torch.device) -> torch.Tensor:
    size = torch.tensor(0, device=device)
    dist.recv(size, src=rank)
    data = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.recv(data, src=rank)
    return data.cpu()
