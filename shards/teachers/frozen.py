"""`FrozenTeacher`: the base class of teachers that are torch models."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch

from shards.teachers.preprocess import Preprocess

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """Hash a state dictionary: name, dtype, shape and bytes of every tensor, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FrozenTeacher:
    """A frozen torch model in evaluation mode; see `shards.teachers.Teacher` for its interface.

    Subclasses override `_encode` where the image tower is only a part of the model.
    Raises: ValueError for a model that does not return one vector per image.
    """

    has_text = False
    tag: str | None = None

    def __init__(self, spec: str, model: Any, preprocess: Preprocess, device: str) -> None:
        self.spec, self.preprocess = spec, preprocess
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self.precision: Precision = "fp32"
        self.parameters = sum(p.numel() for p in model.parameters())
        self.weights_sha256 = weights_sha256(model.state_dict())
        # One forward pass shows the width, which not every model's configuration has.
        blank = torch.zeros(1, 3, preprocess.size, preprocess.size, device=device)
        out = self.embed(blank)
        if out.dim() != 2:
            raise ValueError(
                f"teacher `{spec}`: returns shape {tuple(out.shape[1:])} per image, not one "
                "vector; choose a model with pooled features"
            )
        self.dim = int(out.shape[1])

    def _encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self._model(images_BCHW)

    def cast(self, precision: Precision) -> None:
        """Convert the weights: compute in `precision` from now on.

        Raises: ValueError for fp16 on a CPU, where torch lacks or is slow in many of its kernels.
        """
        if precision == "fp16" and torch.device(self._device).type == "cpu":
            raise ValueError("precision fp16 needs a GPU; on a CPU choose fp32 or bf16")
        self._model.to(DTYPES[precision])
        self.precision = precision

    @torch.inference_mode()
    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Embed normalised images (B, 3, size, size): float32 (B, D), not of unit length."""
        return self._encode(images_BCHW.to(DTYPES[self.precision])).float()

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Raises: ValueError, since only CLIP teachers have a text tower."""
        raise ValueError(f"teacher `{self.spec}` has no text tower")
