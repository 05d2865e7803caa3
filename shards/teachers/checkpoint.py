"""Read the tensors of a local checkpoint without executing any code in it.

Checkpoints in use are safetensors files, zip archives of `torch.save` with an optimizer, NumPy
scalars or an argparse.Namespace beside the weights, TorchScript archives (OpenAI's CLIP), and files
written by torch before 1.6. `torch.load(weights_only=True)` rejects several of these, and
`torch.jit.load` would run the archive's code. This module has a restricted unpickler, which
rebuilds tensors, containers and numbers and replaces every other object by an inert placeholder.
"""

from __future__ import annotations

import collections
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Keys under which training scripts save the weights; averaged ones (EMA) first, as timm prefers.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Prefixes that DistributedDataParallel and torch.compile add to every name, in either order.
PREFIXES = ("module.", "_orig_mod.")
# Buffers that only OpenAI's TorchScript archives of CLIP contain: they identify such an archive,
# and are not weights.
OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by name, without wrappers' prefixes; openai: whether OpenAI published the file."""

    tensors: dict[str, torch.Tensor]
    openai: bool


def read_checkpoint(path: str) -> Checkpoint:
    """Read the weights of a checkpoint file, on the CPU, in the dtypes of the file.

    Raises: ValueError naming the file where it is damaged or has no named tensors; OSError.
    """
    with open(path, "rb") as stream:
        start = stream.read(64)
    if not start:
        raise ValueError(f"{path}: an empty file; expected a checkpoint")
    if start.startswith(LFS_POINTER):
        raise ValueError(
            f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in its repository"
        )
    try:
        content = _read(path, start)
    except OSError:
        raise
    except Exception as error:  # each reader raises different errors for damaged files
        detail = ESCAPES.sub("", str(error)).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: not a readable checkpoint ({detail[0][:160]})") from None
    tensors = _unwrap(content)
    if not tensors:
        raise ValueError(
            f"{path}: contains {_described(content)} and no named tensors; save "
            "`model.state_dict()`"
        )
    openai = all(name in tensors for name in OPENAI_BUFFERS)
    for name, tensor in tensors.items():
        _check_dtype(path, name, tensor)
    # Contiguous copies: tied weights are views of the same storage, which safetensors rejects.
    tensors = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    if openai:
        tensors = {name: t for name, t in tensors.items() if name not in OPENAI_BUFFERS}
    return Checkpoint(tensors, openai)


def _check_dtype(path: str, name: str, tensor: torch.Tensor) -> None:
    """Raises: ValueError for weights that torch would cast in silence, and without their scales."""
    kind = tensor.dtype
    weight = name.endswith("weight") and tensor.ndim > 1  # buffers may well be integers
    if kind.is_complex or (kind.is_floating_point and kind.itemsize < 2):
        wrong = True
    else:
        wrong = weight and not kind.is_floating_point
    if wrong:
        raise ValueError(
            f"{path}: tensor {name} is {str(kind).removeprefix('torch.')}, as quantised weights "
            "are; expected real numbers of 16 bits or more"
        )


def _read(path: str, start: bytes) -> Any:
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    header = struct.unpack("<Q", start[:8])[0] if len(start) >= 9 else 0
    if start[8:9] == b"{" and header < 100_000_000:
        from safetensors.torch import load_file

        return load_file(path)
    if not start.startswith(pickle.PROTO):
        raise ValueError("neither a file of safetensors nor one of torch.save")
    # The format of torch before 1.6, for which torch's own safe reader is enough.
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: Any) -> dict[str, torch.Tensor]:
    """The named tensors inside the dictionaries of training scripts, without wrappers' prefixes."""
    for wrapper in WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and any(isinstance(v, torch.Tensor) for v in inner.values()):
            content = inner
            break
    if isinstance(content, _ScriptModule):
        return content.named_tensors()
    if not isinstance(content, Mapping):
        return {}
    found = {str(name): t for name, t in content.items() if isinstance(t, torch.Tensor)}
    while found:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): t for name, t in found.items()}
    return found


def _described(content: Any) -> str:
    """What a file without named tensors contains, for an error message."""
    if isinstance(content, Mapping):
        return f"a dictionary of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    if isinstance(content, _Placeholder):
        return f"a pickled object of class {content.described}"
    return f"a {type(content).__name__}"


def mismatch(error: Exception, model: str) -> str:
    """Summarise an error of `load_state_dict` in one line.

    It names the first missing, unexpected and misshapen tensor and counts the others, where torch
    lists all of them over hundreds of lines. Of any other error the first line is returned.
    """
    text = ESCAPES.sub("", str(error))
    parts: list[str] = []
    for kind, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: ([^\n]*)"),
        ("unexpected", r"Unexpected key\(s\) in state_dict: ([^\n]*)"),
    ):
        names = re.findall(r'"([^"]+)"', "".join(re.findall(pattern, text)))
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"{kind} {names[0]}{more}")
    shapes = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", text, re.S)
    if shapes:
        name, stored, needed = shapes[0]
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        parts.append(f"{name} has shape {stored}, the model needs {needed}{more}")
    if not parts:
        first = text.strip().splitlines() or [type(error).__name__]
        return first[0] if isinstance(error, ValueError) else f"{first[0][:200]} (loading {model})"
    return f"the checkpoint does not fit {model}: {'; '.join(parts)}"


# ---- zip archives: torch.save and TorchScript ----


class _Placeholder:
    """Stands for any object that is not a tensor, container or number; every call does nothing."""

    described = "unknown"

    def __new__(cls, *arguments: Any, **fields: Any) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **fields: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class _ScriptModule:
    """A module of a TorchScript archive: its attributes by name, without its code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = dict(state) if isinstance(state, Mapping) else {}

    def named_tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, value in getattr(self, "attributes", {}).items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            elif isinstance(value, _ScriptModule):
                found |= value.named_tensors(f"{prefix}{name}.")
        return found


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: Any, stride: Any, *rest: Any
) -> torch.Tensor:
    """As torch._utils._rebuild_tensor_v2, on a flat tensor.

    `as_strided` raises where a damaged file's offset or sizes reach outside the storage.
    """
    return storage.as_strided(tuple(size), tuple(stride), int(offset))


class _Unpickler(pickle.Unpickler):
    """Builds tensors, OrderedDicts and script modules; every other class is a placeholder."""

    def __init__(self, archive: zipfile.ZipFile, root: str, name: str) -> None:
        super().__init__(archive.open(f"{root}{name}.pkl"))
        self._archive, self._root, self._storages = archive, root, {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _ScriptModule
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name in (
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
        ):
            return lambda tensor, *rest: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        return type(f"_{name}", (_Placeholder,), {"described": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The flat tensor of one member of the archive.

        `pid`: ("storage", dtype, key, device, count), as `torch.save` writes it.
        """
        _, dtype, key, _, count = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"storage {key} is of a kind that weights are not stored in")
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes, not {count} values")
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if count else empty
        return self._storages[key]


def _read_zip(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip archive, but not one that torch saved")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError("saved on a big-endian machine")
        return _Unpickler(archive, root, "data").load()
