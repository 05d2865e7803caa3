"""The collectives that engines use. Every rank must call each function, in the same order."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from trainers.engines.base import Arrays


class _Gather(torch.autograd.Function):
    """All-gather with a gradient; see `gather`."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ranks, rank = dist.get_world_size(), dist.get_rank()
        return gradient.chunk(ranks)[rank] * ranks


def gather(part_BD: torch.Tensor) -> torch.Tensor:
    """The parts of all ranks, which have equal shapes, concatenated along the first axis.

    Backward: this rank's slice of the gradient, times the number of ranks. No communication is
    needed, because every rank computes the loss of the whole batch and so has the gradient of all
    of it. A slice is the gradient with respect to one rank's samples; backpropagated by each rank
    and added up they are the whole gradient. DDP and DeepSpeed average over ranks instead of
    adding, hence the factor.
    """
    return _Gather.apply(part_BD.contiguous())


def broadcast(value: int, device: torch.device) -> int:
    """The first rank's value, on every rank."""
    tensor = torch.tensor(value, device=device)
    dist.broadcast(tensor, src=0)
    return int(tensor)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one rank."""
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor)


def copy_from_first(tensors: list[torch.Tensor]) -> None:
    """Overwrite every rank's tensors with the first rank's, in place."""
    for tensor in tensors:
        whole = tensor.detach().contiguous()  # a broadcast takes no other layout
        dist.broadcast(whole, src=0)
        tensor.detach().copy_(whole)


def gather_arrays(arrays: Arrays, device: torch.device) -> list[Arrays]:
    """Each rank's named arrays on the first rank, on the CPU; [] on the others.

    Names, shapes and dtypes may differ between ranks (with ZeRO each has other partitions), which
    torch's own gather does not allow without pickle. So every rank sends a JSON header, then bytes.
    """
    headers = [[name, str(t.dtype).removeprefix("torch."), t.shape] for name, t in arrays.items()]
    header = torch.frombuffer(bytearray(json.dumps(headers).encode()), dtype=torch.uint8)
    body = torch.cat([_bytes(t) for t in arrays.values()] or [torch.empty(0, dtype=torch.uint8)])
    if dist.get_rank():
        _send(header, device)
        _send(body, device)
        return []
    gathered = [{name: tensor.detach().cpu() for name, tensor in arrays.items()}]
    for rank in range(1, dist.get_world_size()):
        headers = json.loads(bytes(_receive(rank, device).tolist()))
        gathered.append(_unpacked(headers, _receive(rank, device)))
    return gathered


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    # Flattened before the view: a tensor of one element may be contiguous with any stride, and a
    # view as bytes needs a stride of 1.
    return plain.flatten().view(torch.uint8)


def _unpacked(headers: list[tuple[str, str, list[int]]], body: torch.Tensor) -> Arrays:
    arrays: Arrays = {}
    for name, dtype, shape in headers:
        array = torch.empty(shape, dtype=getattr(torch, dtype))
        size = array.numel() * array.element_size()
        array.flatten().view(torch.uint8).copy_(body[:size])
        arrays[name], body = array, body[size:]
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
