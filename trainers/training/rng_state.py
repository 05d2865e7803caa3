"""Save the state of every global random generator of a process as arrays, and restore it.

They are torch's generators (CPU, and CUDA where the trial runs on it), Python's `random` and
NumPy's legacy global generator. The states of the last two are not arrays and are stored as bytes
of JSON text, because checkpoints hold no pickle.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch

from shards.support.rng import hash64

Arrays = dict[str, torch.Tensor]


def seed_all(seed: int, rank: int) -> None:
    """Seed every global generator from (seed, rank).

    So a trial's random numbers do not depend on what its process has computed before.
    """
    word = int(hash64(seed, rank))
    torch.manual_seed(word >> 1)
    random.seed(word)
    np.random.seed(word >> 32)


def random_arrays(device: torch.device) -> Arrays:
    """uint8 arrays `random/torch`, `random/python`, `random/numpy` and, on CUDA, `random/cuda`."""
    numpy = np.random.get_state(legacy=False)
    arrays = {
        "random/torch": torch.get_rng_state(),
        "random/python": _text(random.getstate()),
        "random/numpy": _text(numpy | {"state": _plain(numpy["state"])}),
    }
    if device.type == "cuda":
        arrays["random/cuda"] = torch.cuda.get_rng_state(device)
    return arrays


def restore_random(arrays: Arrays, device: torch.device) -> None:
    """Restore what `random_arrays` returned.

    The CUDA state is restored only on a CUDA device and if it was saved: a trial may resume on
    another kind of device.
    """
    torch.set_rng_state(arrays["random/torch"])
    version, words, gauss = _value(arrays["random/python"])
    random.setstate((version, tuple(words), gauss))
    numpy = _value(arrays["random/numpy"])
    numpy["state"]["key"] = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy)
    if device.type == "cuda" and "random/cuda" in arrays:
        torch.cuda.set_rng_state(arrays["random/cuda"], device)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in state.items()}


def _text(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value(array: torch.Tensor) -> Any:
    return json.loads(bytes(array.tolist()))
