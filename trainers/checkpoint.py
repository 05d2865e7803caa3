"""Checkpoints: whole, verified, and free of pickle.

A checkpoint is a folder `step-00000123`: safetensors for arrays, JSON for the rest, and last
`manifest.json` with the sha256 of both. Locally it is made under a temporary name, fsynced and
renamed; on an object store the manifest, written last, is what makes it count. The two newest
are kept; a resume takes the newest that verifies.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from shards import storage

Arrays = dict[str, torch.Tensor]
FORMAT = "checkpoint/2"
KEPT = 2
ARRAYS, RECORD, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class State:
    """Everything a trial needs to go on: arrays by name, and plain values."""

    step: int
    arrays: dict[str, torch.Tensor]
    values: dict[str, Any]


def capture(model: nn.Module, states: list[Arrays]) -> Arrays:
    """Model, each rank's own arrays and random state, named, as copies on the CPU."""
    arrays = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for rank, own in enumerate(states):
        arrays |= {f"rank/{rank}/{name}": tensor for name, tensor in own.items()}
    arrays["rng/torch"] = torch.get_rng_state()
    layout = torch.contiguous_format  # and copied: safetensors refuses tensors that share memory
    return {n: t.detach().cpu().clone(memory_format=layout) for n, t in arrays.items()}


def restore(arrays: Arrays, model: nn.Module) -> list[Arrays]:
    """Put the model and the random state back; each rank's own arrays, for the engine.

    Errors: RuntimeError when names or shapes differ.
    """
    weights = {n.removeprefix("model/"): t for n, t in arrays.items() if n.startswith("model/")}
    model.load_state_dict(weights, strict=True)
    torch.set_rng_state(arrays["rng/torch"])
    states: list[Arrays] = []
    for name, tensor in arrays.items():
        if name.startswith("rank/"):
            _, rank, rest = name.split("/", 2)
            states += [{} for _ in range(int(rank) + 1 - len(states))]
            states[int(rank)][rest] = tensor
    return states


class Checkpoints:
    """The checkpoints of one trial, in one folder; `owner` is the trial's identity."""

    def __init__(self, location: str, owner: str) -> None:
        self.location, self.owner = location, owner

    def steps(self) -> list[int]:
        """Steps of the visible checkpoints, ascending; whether they verify is not looked at."""
        found = [n for n in storage.names(self.location) if n.startswith("step-")]
        return sorted(int(name[5:]) for name in found if name[5:].isdigit())

    def save(self, state: State) -> None:
        """Publish, then remove all but the newest two. Errors: OSError; older ones stay."""
        record = {"format": FORMAT, "owner": self.owner, "step": state.step} | state.values
        files = {ARRAYS: save(state.arrays), RECORD: json.dumps(record).encode()}
        storage.write_folder(self._place(state.step), files | {MANIFEST: _manifest(files)})
        steps = self.steps()
        passed_over = [step for step in steps if step > state.step]
        for step in passed_over + [step for step in steps if step <= state.step][:-KEPT]:
            storage.delete(self._place(step))

    def latest(self) -> State | None:
        """The newest checkpoint that verifies; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except (ValueError, OSError) as error:
                print(f"warning: checkpoint passed over: {error}", file=sys.stderr)
        return None

    def clear(self) -> None:
        storage.delete(self.location)

    def _place(self, step: int) -> str:
        return storage.join(self.location, f"step-{step:08d}")

    def load(self, step: int) -> State:
        """The checkpoint of `step`. Errors: ValueError, OSError when it does not verify."""
        place = self._place(step)
        manifest = storage.read(storage.join(place, MANIFEST))
        files = {name: storage.read(storage.join(place, name)) for name in (ARRAYS, RECORD)}
        if manifest != _manifest(files):
            raise ValueError(f"{place}: {_difference(manifest, files)}")
        record = json.loads(files[RECORD])
        for field, expected in (("format", FORMAT), ("owner", self.owner), ("step", step)):
            found = record.pop(field)
            if found != expected:
                raise ValueError(f"{place}: {field} is {found!r}, expected {expected!r}")
        return State(step, load(files[ARRAYS]), record)


def _sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _manifest(files: dict[str, bytes]) -> bytes:
    """Its bytes follow from the files, so a change in itself is seen as well."""
    return json.dumps({"format": FORMAT, "sha256": _sums(files)}).encode()


def _difference(manifest: bytes, files: dict[str, bytes]) -> str:
    try:
        told = json.loads(manifest)
        form, sums = told["format"], told["sha256"]
        wrong = [name for name, found in _sums(files).items() if sums[name] != found]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} is damaged"
    if wrong:
        return f"the sha256 of {' and '.join(wrong)} is not the manifest's"
    return f"format is {form!r}, expected {FORMAT!r}" if form != FORMAT else "damaged manifest"
