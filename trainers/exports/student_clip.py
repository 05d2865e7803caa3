"""StudentCLIP: a student as the image tower beside its teacher's text tower, for zero-shot use.

    clip = load_clip("exported")                    # from trainers.export --to open_clip
    images_BCHW = clip.preprocess(uint8_BCHW)
    logits_BC = clip.classify(images_BCHW)          # among the classes it was exported with

    text_TD = clip.encode_text(clip.tokenizer(["a cat", "a dog"]), normalize=True)
    image_BD = clip.encode_image(images_BCHW, normalize=True)
    probabilities_BT = (clip.logit_scale.exp() * image_BD @ text_TD.T).softmax(dim=-1)

Methods have the names and meaning of open_clip's.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import normalize as unit_rows

from shards.support import storage
from shards.teachers.preprocess import Preprocess
from trainers.results.folder import fetch_student, read_json
from trainers.students.base import Student
from trainers.students.files import RECORD, WEIGHTS, save_student

if TYPE_CHECKING:
    from shards.teachers.clip import TextTower

FORMAT = "student-clip/1"
ABOUT, TEXT = "clip.json", "text.safetensors"
CLASSES = "text_CD"  # the class embeddings, beside the text tower's own tensors


class StudentCLIP(nn.Module):
    """A student and a text tower that share an embedding space, in evaluation mode.

    preprocess: uint8 images (B, 3, H, W) -> the input of `encode_image`.
    classes: class names in the order of the rows of `text_CD`.
    text_CD: unit class embeddings (C, D). Both are empty where no classes were given.
    """

    text_CD: torch.Tensor

    def __init__(
        self,
        student: Student,
        text: TextTower,
        preprocess: Preprocess,
        classes: tuple[str, ...] = (),
        text_CD: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.student, self.text, self.preprocess = student, text, preprocess
        self.tokenizer, self.classes = text.tokenizer, classes
        rows_CD = np.zeros((0, 0), np.float32) if text_CD is None else text_CD
        if len(rows_CD) != len(classes):
            raise ValueError(f"text_CD: {len(rows_CD)} rows for {len(classes)} classes")
        self.register_buffer(CLASSES, torch.from_numpy(rows_CD.copy()), persistent=False)
        self.eval()

    @property
    def logit_scale(self) -> nn.Parameter:
        """Natural logarithm of the factor that the teacher applies to cosines, a scalar."""
        return self.text.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """What the teacher adds to scaled cosines, a scalar (SigLIP); None for other teachers."""
        return self.text.logit_bias

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Prepared images (B, 3, S, S) -> embeddings (B, D)."""
        image_BD = self.student(image)
        return unit_rows(image_BD, dim=-1) if normalize else image_BD

    def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Tokens (T, L) -> embeddings (T, D)."""
        return self.text.encode_text(text, normalize=normalize)

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Embeddings (T, D) of texts, as `shards.teachers.prompts.class_embeddings` calls it."""
        return self.encode_text(self.tokenizer(texts).to(self.logit_scale.device))

    def _logits(self, image_BD: torch.Tensor, text_TD: torch.Tensor) -> torch.Tensor:
        logits_BT = self.logit_scale.exp() * image_BD @ text_TD.T
        return logits_BT if self.logit_bias is None else logits_BT + self.logit_bias

    def get_logits(
        self, image: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled cosines of images to texts (B, T), and their transpose."""
        image_BD = self.encode_image(image, normalize=True)
        logits_BT = self._logits(image_BD, self.encode_text(text, normalize=True))
        return logits_BT, logits_BT.T

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(unit image embeddings, unit text embeddings, logit scale[, logit bias])."""
        features = self.encode_image(image, normalize=True), self.encode_text(text, normalize=True)
        bias = () if self.logit_bias is None else (self.logit_bias,)
        return (*features, self.logit_scale.exp(), *bias)

    @torch.inference_mode()
    def classify(self, image: torch.Tensor) -> torch.Tensor:
        """Prepared images -> scaled cosines to the class embeddings (B, C).

        Raises: ValueError without classes.
        """
        if not self.classes:
            raise ValueError("classes: none are stored; compute text embeddings with encode_text")
        return self._logits(self.encode_image(image, normalize=True), self.text_CD)


# ---- on disk ----


def pack_clip(clip: StudentCLIP, about: dict[str, Any]) -> dict[str, bytes]:
    """{name: content} of the files that `load_clip` reads. about: the content of student.json."""
    with tempfile.TemporaryDirectory() as folder:
        shape = about["spec"], about["embedding_dim"], about["image_size"]
        save_student(folder, clip.student, *shape)
        files = {name: Path(folder, name).read_bytes() for name in (WEIGHTS, RECORD)}
    text = clip.text.clip.state_dict() | ({CLASSES: clip.text_CD} if clip.classes else {})
    files[TEXT] = save({name: t.detach().cpu().contiguous().clone() for name, t in text.items()})
    record = {
        "format": FORMAT,
        "architecture": clip.text.architecture,
        "quick_gelu": clip.text.quick_gelu,
        "preprocess": clip.preprocess.model_dump(mode="json"),
        "classes": list(clip.classes),
        "text_sha256": hashlib.sha256(files[TEXT]).hexdigest(),
    }
    return files | {ABOUT: (json.dumps(record, indent=1) + "\n").encode()}


def load_clip(location: str) -> StudentCLIP:
    """Load what `trainers.export --to open_clip` wrote: on the CPU, without gradients.

    location: the folder, a path or a URL.

    Raises: ValueError for files that are damaged or not of this format; OSError.
    """
    from shards.teachers.clip import build_text

    record = read_json(storage.join(location, ABOUT))
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{storage.join(location, ABOUT)}: format: got {record.get('format')!r}; "
            f"expected {FORMAT}"
        )
    data = storage.read(storage.join(location, TEXT))
    if hashlib.sha256(data).hexdigest() != record["text_sha256"]:
        raise ValueError(
            f"{storage.join(location, TEXT)}: its sha256 is not the one in {ABOUT}; export it again"
        )
    state = load(data)
    text_CD = state.pop(CLASSES).numpy() if CLASSES in state else None
    text = build_text(record["architecture"], record["quick_gelu"], state)
    student, _ = fetch_student(location)
    preprocess = Preprocess.model_validate(record["preprocess"])
    clip = StudentCLIP(student, text, preprocess, tuple(record["classes"]), text_CD)
    return clip.requires_grad_(False)
