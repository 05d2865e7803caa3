"""Class prompts: what a teacher's text tower makes of the names of the classes."""

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
    """The prompts of a data set, or generic ones."""
    return TEMPLATES.get(split_spec(dataset)[0], GENERIC)


def load_templates(path: str) -> tuple[str, ...]:
    """One prompt a line, `{}` once in each; empty lines are passed over.

    Raises: ValueError naming the line; OSError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    templates = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if text.count("{}") != 1 or text.count("{") != 1 or text.count("}") != 1:
            raise ValueError(
                f"{path}: line {number}: `{text[:80]}` must hold {{}} once, where the class goes"
            )
        templates.append(text)
    if not templates:
        raise ValueError(f"{path}: no prompt in it; write one a line, e.g. a photo of a {{}}.")
    return tuple(dict.fromkeys(templates))


def class_embeddings(
    teacher: Teacher, classes: tuple[str, ...], templates: tuple[str, ...]
) -> np.ndarray:
    """Zero-shot weights, float32 (C, D): mean over prompts of unit text embeddings, made unit.

    Underscores in class names are written as spaces. Radford et al., ICML 2021, section 3.1.
    """
    rows = []
    for name in classes:
        texts = [template.format(name.replace("_", " ")) for template in templates]
        text_TD = teacher.embed_text(texts).cpu().double().numpy()
        mean_D = (text_TD / np.linalg.norm(text_TD, axis=1, keepdims=True)).mean(axis=0)
        rows.append(mean_D / np.linalg.norm(mean_D))
    return np.stack(rows).astype(np.float32)


def pack_floats(array: np.ndarray) -> dict[str, Any]:
    """float32 array -> {"shape", "float32"}: little-endian bytes in base64."""
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": tuple(array.shape), "float32": base64.b64encode(data).decode()}


def unpack_floats(shape: tuple[int, ...], text: str, place: str) -> np.ndarray:
    """What `pack_floats` packed. Raises: ValueError where bytes and shape differ, or NaN."""
    expected = 4 * math.prod(shape)
    try:
        data = base64.b64decode(text, validate=True) if len(text) <= 2 * expected + 4 else b""
    except binascii.Error:
        data = b""
    if min(shape, default=0) < 1 or len(data) != expected:
        raise ValueError(f"{place}: not {expected:,} bytes of float32 for shape {shape}")
    array = np.frombuffer(data, dtype="<f4").reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{place}: not finite")
    return array
