"""A student on disk: `student.safetensors`, and `student.json` with what rebuilds its modules."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import nn

from shards.support import storage
from shards.support.plugins import load_plugins
from shards.support.registry import plugins_of
from trainers.config.schema import PLUGINS
from trainers.students import STUDENTS, build_on_meta, build_student
from trainers.students.base import Student

FORMAT = "student/1"
WEIGHTS, RECORD = "student.safetensors", "student.json"


def save_student(
    folder: str | Path, model: nn.Module, spec: str, embedding_dim: int, image_size: int
) -> None:
    """Write the weights, and then `student.json` with the student's spec and their sha256.

    Raises: ValueError where the tensors are not those of a student built from `spec`,
    `embedding_dim` and `image_size`, because it could not be rebuilt; OSError.
    """
    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    _check_tensors(state, build_on_meta(spec, embedding_dim, image_size), "model")
    weights = save(state)
    record: dict[str, Any] = {
        "format": FORMAT,
        "spec": spec,
        "embedding_dim": embedding_dim,
        "image_size": image_size,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    if plugins := plugins_of((STUDENTS, spec)):
        record[PLUGINS] = list(plugins)
    storage.write(str(Path(folder) / WEIGHTS), weights)
    storage.write(str(Path(folder) / RECORD), (json.dumps(record, indent=2) + "\n").encode())


def load_student(path: str | Path) -> Student:
    """Rebuild what `save_student` wrote: on the CPU, in evaluation mode, bit for bit.

    torch's global generators are not used. A student of a plugin has its MODULE@HASH in
    `student.json`, and the plugin is imported.
    Raises: ValueError for a file that is missing, damaged or of another format, or a plugin that is
    not found.
    """
    folder = Path(path)
    record = _read_record(folder / RECORD)
    try:
        _ = load_plugins(record.get(PLUGINS, []), recorded=True)
    except ValueError as error:
        raise ValueError(f"{folder / RECORD}: {error}") from None
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != record["sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS}: its sha256 is not the one in {RECORD}; save the student again"
        )
    state = load(weights)
    # Any seed will do: every weight is replaced, and a seed keeps the global generator untouched.
    model = build_student(record["spec"], record["embedding_dim"], record["image_size"], seed=0)
    _check_tensors(state, model, str(folder / WEIGHTS))
    model.load_state_dict(state, strict=True)
    return model.eval()


def _read_record(file: Path) -> dict[str, Any]:
    kinds = {"format": str, "spec": str, "embedding_dim": int, "image_size": int, "sha256": str}
    try:
        record = json.loads(_read(file))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{file}: expected one JSON object, with {', '.join(kinds)}")
    record = cast(dict[str, Any], record)
    if set(record) - {PLUGINS} != set(kinds):
        wrong = ", ".join(sorted((set(record) - {PLUGINS}) ^ set(kinds)))
        raise ValueError(
            f"{file}: expected exactly {', '.join(kinds)}; missing or unknown: {wrong}"
        )
    for field, kind in kinds.items():
        if type(record[field]) is not kind:
            raise ValueError(f"{file}: {field}: got {record[field]!r}; expected {kind.__name__}")
    if record["format"] != FORMAT:
        raise ValueError(f"{file}: format: got {record['format']!r}; expected {FORMAT!r}")
    return record


def _check_tensors(state: dict[str, torch.Tensor], model: nn.Module, source: str) -> None:
    """Raises: ValueError naming the first tensor whose name, shape or dtype is not the model's."""
    expected = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
    for name in expected | found:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{source}: tensor `{name}`: got {found.get(name, 'none')}; its spec gives "
                f"{expected.get(name, 'none')}"
            )


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; expected a folder written by save_student")
    return file.read_bytes()
