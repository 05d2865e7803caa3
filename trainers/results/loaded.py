"""A finished trial's student, ready for pictures: its network with its preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from shards.datasets.decoder import upright_rgb
from shards.teachers.preprocess import Preprocess
from trainers.results.folder import open_stored
from trainers.students.base import Student


class LoadedStudent:
    """Pictures -> unit embeddings, in the space of the trial's target (the teacher's by default).

        student = trainers.load_student("runs/demo/trials/0123456789abcdef")
        embedding_BD = student([Image.open("cat.jpg"), Image.open("dog.jpg")])

    model: the network, in evaluation mode. preprocess: how its input is prepared. classes: names
    of the classes of the data set it was trained on.
    """

    def __init__(self, model: Student, preprocess: Preprocess, classes: list[str]) -> None:
        self.model, self.preprocess, self.classes = model, preprocess, classes

    def to(self, device: str | torch.device) -> LoadedStudent:
        """Move the network; returns itself."""
        self.model.to(device)
        return self

    def __call__(self, images: Any) -> torch.Tensor:
        """Unit embeddings, float32 (B, D), on the network's device.

        images: a PIL image or a list of them; or uint8, (H, W, 3) or (B, H, W, 3) as an array,
        (3, H, W) or (B, 3, H, W) as a tensor. PIL images become upright RGB as those of data sets
        do (`shards.datasets.decoder`). Of images that are not square the middle is used.
        Raises: ValueError for anything else.
        """
        device = next(self.model.parameters()).device
        batch = [self.preprocess(_square(one).to(device)) for one in _images(images)]
        with torch.inference_mode():
            raw_BD = self.model(torch.cat(batch).contiguous())
        return torch.nn.functional.normalize(raw_BD.float(), dim=1)


def load(path: str | Path) -> LoadedStudent:
    """The student of a finished trial, on the CPU.

    path: path or URL of the trial's folder. Raises: ValueError where it is not that of a finished
    trial, or the student has no network, or a file is damaged; OSError.
    """
    stored = open_stored(str(path))
    if stored.result is None:
        raise ValueError(f"{path}: a student without its trial; expected a trial's folder")
    about = stored.result.input
    return LoadedStudent(stored.network, about.preprocess, about.classes)


def _images(images: Any) -> list[torch.Tensor]:
    """uint8 (B, 3, H, W) tensors; pictures of different sizes are tensors of their own."""
    if isinstance(images, list | tuple):
        return [one for image in cast("list[Any]", images) for one in _images(image)]
    if hasattr(images, "convert"):  # a PIL image
        images = np.array(upright_rgb(images, "images"))
    if isinstance(images, np.ndarray):
        batch = torch.as_tensor(cast("np.ndarray[Any, Any]", images))
        batch = batch.movedim(-1, -3) if batch.ndim in (3, 4) else batch
    elif isinstance(images, torch.Tensor):
        batch = images
    else:
        raise ValueError(f"images: {type(images).__name__}; expected PIL images or uint8 arrays")
    batch_BCHW = batch[None] if batch.ndim == 3 else batch
    shape = tuple(batch_BCHW.shape)
    if batch_BCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        raise ValueError(
            f"images: {batch.dtype} of shape {tuple(batch.shape)} with channels as the third last; "
            "expected uint8, (H, W, 3) as an array or (3, H, W) as a tensor, or a batch of them"
        )
    return [batch_BCHW]


def _square(images_BCHW: torch.Tensor) -> torch.Tensor:
    """The middle of images that are not square."""
    height, width = images_BCHW.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images_BCHW[..., top : top + side, left : left + side].contiguous()
