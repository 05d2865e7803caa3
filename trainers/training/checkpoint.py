"""Checkpoints: complete, verified, and free of pickle.

A checkpoint is a folder `step-00000123` with safetensors for arrays, JSON for the rest, and
`manifest.json` with the sha256 of both, written last. On a local disk the folder is written under
a temporary name, fsynced and renamed. On an object store, which cannot rename, a checkpoint without
a manifest is treated as damaged.

A trial that holds a lease publishes through it (see `shards.support.lease`), so a process that has
lost its lease cannot disturb the one that replaced it. On an object store the name then ends in the
holder's generation, `step-00000123.00000002`, and a later generation counts as newer whatever its
step: it resumed from what the earlier one had left.

The two newest are kept, and a trial resumes from the newest that verifies. A damaged one is skipped
with a warning, and the one before it is tried. An intact one of another trial or format is refused,
because resuming from it would give wrong results without any sign of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from shards.support import storage
from shards.support.lease import Lease
from trainers.config.schema import TrialConfig

Arrays = dict[str, torch.Tensor]
FORMAT = "checkpoint/3"
KEPT = 2
ARRAYS, RECORD, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"
NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")


class ForeignError(ValueError):
    """The checkpoint is intact, but of another trial or format."""


@dataclass(frozen=True)
class State:
    """All that a trial needs to resume after `step` steps: arrays by name, and JSON values.

    generation: of the holder that has written it; 0 on a disk, and where it is not written yet.
    """

    step: int
    arrays: dict[str, torch.Tensor]
    values: dict[str, Any]
    generation: int = 0


def owner_of(config: TrialConfig, source: str = "") -> dict[str, Any]:
    """The values that must be equal in a checkpoint and in the trial that resumes from it.

    They are `source`, the sha256 of what the trial reads, and every field of the trial except those
    that `elastic` lets change when a trial is resumed.
    """
    return config.model_dump(mode="json", exclude=config.unnamed) | {"source": source}


def capture(modules: dict[str, nn.Module], states: list[Arrays]) -> Arrays:
    """The tensors of modules and the arrays of each rank, by name, as copies on the CPU."""
    arrays: Arrays = {}
    for role, module in modules.items():
        arrays |= {f"{role}/{name}": tensor for name, tensor in module.state_dict().items()}
    for rank, state in enumerate(states):
        arrays |= {f"rank/{rank}/{name}": tensor for name, tensor in state.items()}
    layout = torch.contiguous_format  # copied, because safetensors refuses shared memory
    return {n: t.detach().cpu().clone(memory_format=layout) for n, t in arrays.items()}


def restore(arrays: Arrays, modules: dict[str, nn.Module]) -> list[Arrays]:
    """Load the tensors of modules in place; returns the arrays of each rank, for the engine.

    Raises: RuntimeError where names or shapes differ.
    """
    for role, module in modules.items():
        module.load_state_dict(_under(f"{role}/", arrays), strict=True)
    ranks = {int(name.split("/")[1]) for name in arrays if name.startswith("rank/")}
    return [_under(f"rank/{rank}/", arrays) for rank in sorted(ranks)]


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}


class Checkpoints:
    """The checkpoints of one trial.

    location: their folder or URL. owner: from `owner_of`. lease: of the trial, where one is held.
    """

    def __init__(self, location: str, owner: dict[str, Any], lease: Lease | None = None) -> None:
        self.location, self.lease = location, lease
        # Through JSON, so that it compares equal to a stored one (tuples become lists).
        self.owner: dict[str, Any] = json.loads(json.dumps(owner))

    def steps(self) -> list[int]:
        """Steps of the checkpoints in the folder, the oldest first, valid or not."""
        return [step_of(name) for name in self._names()]

    def _names(self) -> list[str]:
        found = [name for name in storage.names(self.location) if NAME.fullmatch(name)]
        return sorted(found, key=_age)

    def save(self, state: State) -> None:
        """Write a checkpoint, then delete all but the newest two.

        A valid one of the same step is kept: training is deterministic, so it holds the same.
        Checkpoints of later steps are deleted: this run resumed from an earlier one because they
        were damaged. Raises: OSError and LostError, without deleting any.
        """
        name = f"step-{state.step:08d}{self.lease.suffix if self.lease else ''}"
        if not self._holds(name):
            self._write(name, state)
        # Should this process have lost its lease, those of later generations are not its own.
        names = [other for other in self._names() if _age(other)[0] <= _age(name)[0]]
        later = [other for other in names if step_of(other) > state.step]
        for other in later + [other for other in names if step_of(other) <= state.step][:-KEPT]:
            self._delete(other)
        for other in storage.names(self.location):
            if other.startswith(".step-"):  # left by a process that was killed while saving
                storage.delete(storage.join(self.location, other))

    def _holds(self, name: str) -> bool:
        try:
            return bool(self.load_named(name))
        except (ValueError, FileNotFoundError):
            return False

    def _write(self, name: str, state: State) -> None:
        record = {"format": FORMAT, "owner": self.owner, "step": state.step} | state.values
        files = {ARRAYS: save(state.arrays), RECORD: json.dumps(record).encode()}
        files |= {MANIFEST: _manifest(files, FORMAT)}
        place = storage.join(self.location, name)
        if self.lease is None:
            storage.write_folder(place, files)
        else:
            self.lease.publish_folder(place, files)

    def _delete(self, name: str) -> None:
        place = storage.join(self.location, name)
        if self.lease is None:
            storage.delete(place)
        else:
            self.lease.discard(place)

    def latest(self) -> State | None:
        """The newest valid checkpoint, or None; damaged ones are skipped with a warning.

        Raises: ForeignError; OSError where one exists but cannot be read.
        """
        for name in reversed(self._names()):
            try:
                return self.load_named(name)
            except ForeignError:
                raise
            except (ValueError, FileNotFoundError) as error:
                print(f"warning: checkpoint skipped: {error}", file=sys.stderr)
        return None

    def load(self, step: int, generation: int = 0) -> State:
        """The checkpoint of `step` that this generation has written. Raises: as `load_named`.

        A later generation may have written another one of the same step, perhaps only in part.
        """
        return self.load_named(f"step-{step:08d}{f'.{generation:08d}' if generation else ''}")

    def load_named(self, name: str) -> State:
        """The checkpoint in the folder `name`.

        Raises:
            ValueError: where it is damaged.
            ForeignError: naming the fields in which it differs from this trial.
            OSError: where it cannot be read.
        """
        folder, step = storage.join(self.location, name), step_of(name)
        manifest = storage.read(storage.join(folder, MANIFEST))
        files = {file: storage.read(storage.join(folder, file)) for file in (ARRAYS, RECORD)}
        format_ = _format_of(manifest, files, folder)
        if format_ != FORMAT:
            raise _foreign(folder, [f"format is {format_!r}, expected {FORMAT!r}"])
        record = json.loads(files[RECORD])
        del record["format"]
        if (found := record.pop("step")) != step:
            raise ValueError(f"{folder}: step is {found!r}, expected {step!r}")
        if differing := _differing(record.pop("owner"), self.owner):
            raise _foreign(folder, differing)
        return State(step, load(files[ARRAYS]), record, _age(name)[0])


def step_of(name: str) -> int:
    """The step of a checkpoint by its folder's name. Raises: ValueError for another name."""
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"`{name}`: not the name of a checkpoint, such as step-00000123")
    return int(found[1])


def _age(name: str) -> tuple[int, int]:
    """(generation, step): larger for a newer checkpoint."""
    found = NAME.fullmatch(name)
    assert found is not None
    return int(found[2] or 0), int(found[1])


def _foreign(folder: str, differing: list[str]) -> ForeignError:
    return ForeignError(
        f"{folder}: a checkpoint of another trial: {'; '.join(differing)}; choose another --out "
        "or delete it"
    )


def _differing(stored: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [
        f"{field} is {stored.get(field)!r}, expected {expected.get(field)!r}"
        for field in sorted(stored | expected)
        if stored.get(field) != expected.get(field)
    ]


# ---- the manifest ----


def _sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _manifest(files: dict[str, bytes], format_: str) -> bytes:
    """Its bytes are a pure function of the files, so damage to the manifest is detected too."""
    return json.dumps({"format": format_, "sha256": _sums(files)}).encode()


def _format_of(manifest: bytes, files: dict[str, bytes], folder: str) -> str:
    """The format of a checkpoint, once files, manifest and record were found to agree.

    Raises: ValueError naming what is damaged.
    """
    try:
        sums = json.loads(manifest)["sha256"]
        wrong = [name for name, found in _sums(files).items() if sums[name] != found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{folder}: {MANIFEST} is damaged") from None
    if wrong:
        raise ValueError(f"{folder}: the sha256 of {' and '.join(wrong)} is not the manifest's")
    format_ = json.loads(files[RECORD])["format"]
    if manifest != _manifest(files, format_):
        raise ValueError(f"{folder}: {MANIFEST} is damaged")
    return format_
