"""TEACHERS: frozen encoders behind one small interface.

    teacher = open_teacher("open_clip:ViT-B-32:openai", device="cpu")
    embedding_BD = teacher.embed(teacher.preprocess(images_BCHW))   # float32, not normalised

A teacher is named by a spec:

    embedded                     the tiny CLIP that ships with the package
    open_clip:NAME:TAG           any model and pretrained tag that open_clip lists
    open_clip:NAME:TAG@PATH      a local checkpoint, with the activation and preprocessing of a tag
    open_clip:NAME:PATH          a local checkpoint, where all tags of the model agree in these
    open_clip:local-dir:PATH     a folder that open_clip saved: config, weights, tokenizer
    open_clip:hf-hub:OWNER/NAME  such a folder on the Hugging Face hub
    timm:NAME                    any pretrained timm model with pooled features
    timm:NAME:PATH               a local checkpoint of it

`none` as TAG or PATH gives random weights, for trials of the pipeline without a download. A new
kind of teacher is an entry in TEACHERS that returns a `Teacher`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from shards.support import storage
from shards.support.cache import cached
from shards.support.registry import Table, check_spelling, split_spec
from shards.teachers.frozen import Precision, weights_sha256
from shards.teachers.preprocess import Preprocess

if TYPE_CHECKING:
    from shards.teachers.clip import TextTower

__all__ = [
    "TEACHERS",
    "Precision",
    "Teacher",
    "check_teacher",
    "embedding_dim",
    "has_random_weights",
    "input_size",
    "local_weights_sha256",
    "open_teacher",
    "text_tower",
    "untrained",
    "weights_sha256",
]


class Teacher(Protocol):
    """The interface of every teacher.

    spec: the spec it was opened by. dim: width D of its embeddings. parameters: number of them.
    preprocess: from uint8 images to its input. weights_sha256: of the weights as loaded, before any
    cast. precision: in which it computes. has_text: whether `embed_text` works. tag: the pretrained
    tag whose settings a local checkpoint was opened with, else None.
    """

    spec: str
    dim: int
    parameters: int
    preprocess: Preprocess
    weights_sha256: str
    precision: Precision
    has_text: bool
    tag: str | None

    def cast(self, precision: Precision) -> None:
        """Convert the weights: compute in `precision` from now on."""
        ...

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Embed normalised images (B, 3, size, size): float32 (B, D), not of unit length."""
        ...

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Embed texts: float32 (len(texts), D), not of unit length.

        Raises: ValueError for a teacher without a text tower.
        """
        ...


def _timm(argument: str, device: str) -> Teacher:
    from shards.teachers.timm_models import open_timm

    return open_timm(argument, device)


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
    "teacher", {"embedded": _embedded, "open_clip": _open_clip, "timm": _timm}
)


def open_teacher(spec: str, device: str = "cpu", precision: Precision = "fp32") -> Teacher:
    """Load a teacher, frozen and in evaluation mode, on `device`.

    Raises: ValueError for an unknown spec, or weights that cannot be loaded.
    """
    name, argument = split_spec(spec)
    file = _checkpoint(spec)
    state = storage.state(file) if file else None
    teacher = TEACHERS[name](argument, device)
    check_spelling("teacher", spec, teacher.spec)
    if file:
        # Stored so that `local_weights_sha256` need not load the same file again.
        cached(_note(spec, file), state, lambda: teacher.weights_sha256)
    if precision != "fp32":
        teacher.cast(precision)
    return teacher


def local_weights_sha256(spec: str) -> str | None:
    """The sha256 of the weights in a teacher's local checkpoint, as the file is now.

    None for a teacher without a local checkpoint. The result is cached on disk until the file
    changes, because loading a large model takes long.
    """
    file = _checkpoint(spec)
    if file is None:
        return None
    state = storage.state(file)
    return cached(_note(spec, file), state, lambda: open_teacher(spec).weights_sha256)


def _checkpoint(spec: str) -> str | None:
    """The local checkpoint of a spec `NAME:PATH` or `NAME:TAG@PATH`; None for any other."""
    name, argument = split_spec(spec)
    rest = argument.partition(":")[2]
    if name in ("open_clip", "timm"):
        for file in (rest, rest.partition("@")[2]):
            if os.path.isfile(file):
                return file
    return None


def _note(spec: str, file: str) -> str:
    return f"weights {spec} {os.path.realpath(file)}"


def text_tower(teacher: Teacher) -> TextTower:
    """The text tower of a CLIP teacher. Raises: ValueError for a teacher without one."""
    from shards.teachers.clip import ClipTeacher

    if not isinstance(teacher, ClipTeacher):
        raise ValueError(
            f"teacher `{teacher.spec}` has no text tower; use `embedded` or open_clip:NAME:TAG"
        )
    return teacher.text_tower()


def check_teacher(spec: str) -> str | None:
    """Check a spec without loading weights.

    Returns a description of what would have to be downloaded, or None where nothing would.
    Raises: ValueError for an unknown teacher, model or tag.
    """
    name, argument = split_spec(spec)
    TEACHERS[name]
    if name == "embedded":
        _no_argument(argument)
    elif name == "timm":
        from shards.teachers.timm_models import missing_download

        return missing_download(argument)
    elif name == "open_clip":
        from shards.teachers.clip_names import missing_download

        return missing_download(argument)
    return None


def has_random_weights(spec: str) -> bool:
    """Whether a spec names a teacher that was never trained: `none` as its tag or file."""
    return spec.endswith(":none")


def untrained(spec: str) -> str:
    """The spec of the same architecture with random weights, which need not be downloaded."""
    name, argument = split_spec(spec)
    if name not in ("open_clip", "timm"):
        return spec
    kind, *rest = argument.split(":")
    located = name == "open_clip" and kind in ("local-dir", "hf-hub")
    model = f"{kind}:{':'.join(rest)}" if located else kind
    return f"{name}:{model.removesuffix(':none')}:none"


def embedding_dim(spec: str) -> int:
    """The width D of a teacher's embeddings, without loading its weights."""
    return _configured(spec)[0]


def input_size(spec: str) -> int:
    """The side of a teacher's square input in pixels, without loading its weights."""
    return _configured(spec)[1]


def _configured(spec: str) -> tuple[int, int]:
    """(width of the embeddings, side of the input in pixels)."""
    name, argument = split_spec(spec)
    TEACHERS[name]
    if name == "timm":
        from shards.teachers.timm_models import configured

        return configured(argument)
    if name == "embedded":
        from shards.teachers import embedded

        config = embedded.files()[0]
        return int(config["embed_dim"]), int(config["preprocess_cfg"]["size"])
    if name == "open_clip":
        from shards.teachers.clip import configured_dim, configured_size

        return configured_dim(spec), configured_size(spec)
    teacher = open_teacher(spec)
    return teacher.dim, teacher.preprocess.size
