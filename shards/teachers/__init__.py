"""TEACHERS: frozen encoders behind one small interface.

    teacher = open_teacher("open_clip:ViT-B-32:openai", device="cpu")
    embedding_BD = teacher.embed(teacher.preprocess(images_BCHW))   # float32, not normalised

A teacher is named by a spec: `embedded`, or `open_clip:NAME:TAG` with any model and tag that
open_clip lists, a local checkpoint's path as the tag, or `none` for random weights. Another one
is an entry in TEACHERS that returns a `Teacher`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import torch

from shards.preprocess import Preprocess
from shards.table import Table, split_spec


class Teacher(Protocol):
    """What the build needs of a teacher.

    `weights_sha256` is taken over the weights actually loaded (see `weights_sha256` below).
    """

    spec: str
    dim: int
    parameters: int
    preprocess: Preprocess
    weights_sha256: str

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised floats (B, 3, size, size) -> float32 embeddings (B, D), not unit length."""
        ...

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Texts -> float32 embeddings (len(texts), D), not unit length."""
        ...


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """sha256 over every tensor in name order: name, dtype, shape, little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _open_clip(argument: str, device: str) -> Teacher:
    from shards.teachers.clip import open_registered

    return open_registered(argument, device)


def _no_argument(argument: str) -> None:
    if argument:
        raise ValueError(f"teacher `embedded:{argument}`: `embedded` takes no argument")


def _embedded(argument: str, device: str) -> Teacher:
    from shards.teachers.clip import open_embedded

    _no_argument(argument)
    return open_embedded(device)


TEACHERS: Table[Callable[[str, str], Teacher]] = Table(
    "teacher", {"embedded": _embedded, "open_clip": _open_clip}
)


def open_teacher(spec: str, device: str = "cpu") -> Teacher:
    """Load a teacher, frozen, in evaluation mode. Errors: ValueError naming what would be right."""
    name, argument = split_spec(spec)
    return TEACHERS[name](argument, device)


def check_teacher(spec: str) -> str | None:
    """Resolve a spec without loading weights; what would have to be downloaded, or None.

    Errors: ValueError for an unknown teacher, model or tag.
    """
    name, argument = split_spec(spec)
    TEACHERS[name]
    if name != "open_clip":
        _no_argument(argument)
        return None
    from shards.teachers.clip import missing_download

    return missing_download(argument)


def embedding_dim(spec: str) -> int:
    """Width of a teacher's embeddings, from its configuration alone."""
    from shards.teachers.clip import configured_dim

    TEACHERS[split_spec(spec)[0]]
    return configured_dim(spec)


def input_size(spec: str) -> int:
    """Pixels a side of a teacher's input, from its configuration alone."""
    from shards.teachers.clip import configured_size

    TEACHERS[split_spec(spec)[0]]
    return configured_size(spec)
