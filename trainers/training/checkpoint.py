"""Checkpoints: whole, verified, and free of pickle.

A checkpoint is a folder `step-00000123`: safetensors for arrays, JSON for the rest, and last
`manifest.json` with the sha256 of both. Locally it is made under a temporary name, fsynced and
renamed; on an object store the manifest, written last, is what makes it count. The two newest
are kept; a resume takes the newest that verifies. Damage means the one before it, with a warning;
one that is whole but of another trial or format is refused.
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

from shards.support import storage
from trainers.config.schema import TrialConfig

Arrays = dict[str, torch.Tensor]
FORMAT = "checkpoint/3"
KEPT = 2
ARRAYS, RECORD, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"


class ForeignError(ValueError):
    """A whole checkpoint, but of another trial or format: not passed over in silence."""


@dataclass(frozen=True)
class State:
    """Everything a trial needs to go on: arrays by name, and plain values."""

    step: int
    arrays: dict[str, torch.Tensor]
    values: dict[str, Any]


def owner_of(config: TrialConfig, source: str = "") -> dict[str, Any]:
    """What must agree between a checkpoint and who resumes from it.

    Every field of the trial (but those that may change under way) and what the trial reads.
    """
    return config.model_dump(mode="json", exclude=config.unnamed) | {"source": source}


def capture(modules: dict[str, nn.Module], states: list[Arrays]) -> Arrays:
    """Modules and each rank's own arrays, named, as copies on the CPU."""
    arrays: Arrays = {}
    for role, module in modules.items():
        arrays |= {f"{role}/{name}": tensor for name, tensor in module.state_dict().items()}
    for rank, own in enumerate(states):
        arrays |= {f"rank/{rank}/{name}": tensor for name, tensor in own.items()}
    layout = torch.contiguous_format  # and copied: safetensors refuses tensors that share memory
    return {n: t.detach().cpu().clone(memory_format=layout) for n, t in arrays.items()}


def restore(arrays: Arrays, modules: dict[str, nn.Module]) -> list[Arrays]:
    """Put the modules' tensors back, in place; each rank's own arrays, for the engine.

    Raises: RuntimeError when names or shapes differ.
    """
    for role, module in modules.items():
        module.load_state_dict(_under(f"{role}/", arrays), strict=True)
    ranks = {int(name.split("/")[1]) for name in arrays if name.startswith("rank/")}
    return [_under(f"rank/{rank}/", arrays) for rank in sorted(ranks)]


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {n.removeprefix(prefix): t for n, t in arrays.items() if n.startswith(prefix)}


class Checkpoints:
    """The checkpoints of one trial, in one folder; `owner`, flat, is from `owner_of`."""

    def __init__(self, location: str, owner: dict[str, Any]) -> None:
        self.location = location
        self.owner: dict[str, Any] = json.loads(json.dumps(owner))  # as it is read back

    def steps(self) -> list[int]:
        """Steps of the visible checkpoints, ascending; whether they verify is not looked at."""
        found = [n for n in storage.names(self.location) if n.startswith("step-")]
        return sorted(int(name[5:]) for name in found if name[5:].isdigit())

    def save(self, state: State) -> None:
        """Publish, then remove all but the newest two. Raises: OSError; older ones stay.

        One of the same step that verifies is kept: it is the same state.
        """
        if not self._holds(state.step):
            self._write(state)
        steps = self.steps()
        passed_over = [step for step in steps if step > state.step]
        for step in passed_over + [step for step in steps if step <= state.step][:-KEPT]:
            storage.delete(self._place(step))
        for name in storage.names(self.location):
            if name.startswith(".step-"):  # what a save left whose process was killed
                storage.delete(storage.join(self.location, name))

    def _holds(self, step: int) -> bool:
        try:
            return bool(self.load(step))
        except (ValueError, FileNotFoundError):
            return False

    def _write(self, state: State) -> None:
        record = {"format": FORMAT, "owner": self.owner, "step": state.step} | state.values
        files = {ARRAYS: save(state.arrays), RECORD: json.dumps(record).encode()}
        storage.write_folder(self._place(state.step), files | {MANIFEST: _manifest(files, FORMAT)})

    def latest(self) -> State | None:
        """The newest checkpoint that verifies; damaged ones are named and passed over.

        Raises: ForeignError; OSError where one is there but cannot be read.
        """
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except ForeignError:
                raise
            except (ValueError, FileNotFoundError) as error:
                print(f"warning: checkpoint passed over: {error}", file=sys.stderr)
        return None

    def _place(self, step: int) -> str:
        return storage.join(self.location, f"step-{step:08d}")

    def load(self, step: int) -> State:
        """The checkpoint of `step`.

        Raises: ValueError when it is damaged, ForeignError naming the fields in which it is not
        this trial's, OSError when it cannot be read.
        """
        place = self._place(step)
        manifest = storage.read(storage.join(place, MANIFEST))
        files = {name: storage.read(storage.join(place, name)) for name in (ARRAYS, RECORD)}
        form = _format_of(manifest, files, place)
        if form != FORMAT:
            raise _foreign(place, [f"format is {form!r}, expected {FORMAT!r}"])
        record = json.loads(files[RECORD])
        del record["format"]
        if (found := record.pop("step")) != step:
            raise ValueError(f"{place}: step is {found!r}, expected {step!r}")
        if differing := _differing(record.pop("owner"), self.owner):
            raise _foreign(place, differing)
        return State(step, load(files[ARRAYS]), record)


def _foreign(place: str, differing: list[str]) -> ForeignError:
    return ForeignError(
        f"{place}: a checkpoint of another trial: {'; '.join(differing)}; choose another --out "
        "or delete it"
    )


def _differing(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{field} is {there.get(field)!r}, expected {here.get(field)!r}"
        for field in sorted(there | here)
        if there.get(field) != here.get(field)
    ]


# ---- damage ----


def _sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _manifest(files: dict[str, bytes], form: str) -> bytes:
    """Its bytes follow from the files, so a change in itself is seen as well."""
    return json.dumps({"format": form, "sha256": _sums(files)}).encode()


def _format_of(manifest: bytes, files: dict[str, bytes], place: str) -> str:
    """The format of a checkpoint that is whole: files, manifest and record agree.

    Raises: ValueError naming what is damaged.
    """
    try:
        sums = json.loads(manifest)["sha256"]
        wrong = [name for name, found in _sums(files).items() if sums[name] != found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{place}: {MANIFEST} is damaged") from None
    if wrong:
        raise ValueError(f"{place}: the sha256 of {' and '.join(wrong)} is not the manifest's")
    form = json.loads(files[RECORD])["format"]
    if manifest != _manifest(files, form):
        raise ValueError(f"{place}: {MANIFEST} is damaged")
    return form
