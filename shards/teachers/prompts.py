"""Class prompts, and the class embeddings that a teacher's text tower computes from them."""

from __future__ import annotations

import base64
import binascii
import math
from pathlib import Path
from typing import Any

import numpy as np

from shards.support.registry import split_spec
from shards.teachers import Teacher

GENERIC = ("a photo of a {}.", "a photo of the {}.")
# OpenAI's prompts for CIFAR-10 and CIFAR-100 (CLIP repository, data/prompts.md).
CIFAR = tuple(
    f"a {prefix}photo of {article} {size}{{}}."
    for article in ("a", "the")
    for prefix, size in (
        ("", ""),
        ("blurry ", ""),
        ("black and white ", ""),
        ("low contrast ", ""),
        ("high contrast ", ""),
        ("bad ", ""),
        ("good ", ""),
        ("", "small "),
        ("", "big "),
    )
)
DIGITS = (
    "a handwritten digit {}",
    "the number {}",
    "a photo of the digit {}",
    "a photo of a handwritten {}",
    "the numeral {} written by hand",
    "a photo of a {}.",
)
TEMPLATES = {"digits": DIGITS, "cifar10": CIFAR, "cifar100": CIFAR}


def templates_for(dataset: str) -> tuple[str, ...]:
    """The standard prompts of a data set given by its spec; generic ones for an unknown one."""
    return TEMPLATES.get(split_spec(dataset)[0], GENERIC)


def load_templates(path: str) -> tuple[str, ...]:
    """Read prompts from a text file: one per line, with `{}` for the class; empty lines skipped.

    Raises: ValueError naming the first line without exactly one `{}`, or an empty file; OSError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    templates: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text.count("{}") != 1 or text.count("{") != 1 or text.count("}") != 1:
            raise ValueError(
                f"{path}: line {number}: `{text[:80]}` must contain {{}} once, for the class"
            )
        templates.append(text)
    if not templates:
        raise ValueError(f"{path}: no prompts; write one per line, e.g. a photo of a {{}}.")
    return tuple(dict.fromkeys(templates))


def class_embeddings(
    teacher: Teacher, classes: tuple[str, ...], templates: tuple[str, ...]
) -> np.ndarray:
    """The weights of a zero-shot classifier, float32 (C, D), rows of unit length.

    Each row is the mean over the prompts of unit text embeddings, normalised again. Underscores in
    class names become spaces. Source: Radford et al., ICML 2021, section 3.1.
    Raises: ValueError for a teacher without a text tower.
    """
    rows: list[np.ndarray] = []
    for name in classes:
        texts = [template.format(name.replace("_", " ")) for template in templates]
        text_TD = teacher.embed_text(texts).cpu().double().numpy()
        mean_D = (text_TD / np.linalg.norm(text_TD, axis=1, keepdims=True)).mean(axis=0)
        rows.append(mean_D / np.linalg.norm(mean_D))
    return np.stack(rows).astype(np.float32)


def pack_floats(array: np.ndarray) -> dict[str, Any]:
    """Pack an array for JSON: {"shape", "float32": little-endian bytes in base64}."""
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": tuple(array.shape), "float32": base64.b64encode(data).decode()}


def unpack_floats(shape: tuple[int, ...], text: str, where: str) -> np.ndarray:
    """The float32 array that `pack_floats` packed.

    Raises: ValueError, naming `where`, if bytes and shape disagree or a value is not finite.
    """
    expected = 4 * math.prod(shape)
    try:
        data = base64.b64decode(text, validate=True) if len(text) <= 2 * expected + 4 else b""
    except binascii.Error:
        data = b""
    if min(shape, default=0) < 1 or len(data) != expected:
        raise ValueError(f"{where}: not {expected:,} bytes of float32 for shape {shape}")
    array = np.frombuffer(data, dtype="<f4").reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: not finite")
    return array
