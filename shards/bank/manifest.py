"""The manifest of a bank: what was built, from what, and the checksums of every shard.

A bank is a folder: `manifest.json` and one tar per block of about 1,000 samples,
`train-000000.tar`, `test-000000.tar`, ..., with the members of `shards.bank.members`.

The V views of a split are the views of its arms one after the other; each `ArmRecord` holds the
slice that belongs to its arm. The manifest is written last, and readers trust nothing else: a tar
is opened only after its checksum agrees.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from shards.arms import PLUGIN
from shards.bank.robustness import TeacherRobustness
from shards.measures.corruption import Figures
from shards.support.schema import StrictModel
from shards.teachers.preprocess import Preprocess

FORMAT = "shards/2"
MANIFEST = "manifest.json"
PLAN = "plan.json"


def _without(fields: dict[str, Any], *optional: str) -> dict[str, Any]:
    """`fields` without those of `optional` that are None, which older banks do not have."""
    return {name: v for name, v in fields.items() if name not in optional or v is not None}


class DatasetRecord(StrictModel):
    """A data set as a bank holds it.

    `decoder`: version of the picture decoder; None, and then left out of the JSON, where images
    came as arrays, and in banks built before decoders had versions. `plugin`: MODULE@HASH of the
    plugin that registered the data set; None, and then left out, where the project has it.
    """

    spec: str
    identity: str
    image_size: int
    classes: tuple[str, ...]
    train_samples: int | None
    test_samples: int | None
    counts: dict[str, int]
    decoder: int | None = None
    plugin: str | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(serialize(self), "decoder", "plugin")


class TeacherRecord(StrictModel):
    """A teacher as it was used.

    `weights_sha256` is that of its weights' bytes. `tag` is the pretrained tag whose activation and
    preprocessing a local checkpoint was opened with; for any other teacher it is None, and then
    left out of the JSON. `plugin`: as in `DatasetRecord`.
    """

    spec: str
    weights_sha256: str
    dim: int
    parameters: int
    preprocess: Preprocess
    precision: Literal["fp32", "bf16", "fp16"]
    tag: str | None = None
    plugin: str | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(serialize(self), "tag", "plugin")


class ArmRecord(StrictModel):
    """One arm of a split: its views are `start` to `stop` of the split's view axis."""

    arm: str
    columns: tuple[str, ...]
    options: dict[str, str | float | int | bool]
    start: int
    stop: int


class Plan(StrictModel):
    """Everything that determines the bytes of a bank; its hash is the identity of the bank."""

    format: str = FORMAT
    dataset: DatasetRecord
    teachers: tuple[TeacherRecord, ...]
    arms: dict[str, tuple[ArmRecord, ...]]
    templates: tuple[str, ...]
    seed: int
    shard_samples: int = Field(ge=1)
    batch: int = Field(ge=1)
    device: Literal["cpu", "cuda"]

    @property
    def identity(self) -> str:
        """sha256 of the canonical JSON: two banks with one identity hold the same samples."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def plugins(self) -> tuple[str, ...]:
        """MODULE@HASH of the plugins that registered data set, teachers or arms, sorted."""
        found: set[object] = {self.dataset.plugin, *(teacher.plugin for teacher in self.teachers)}
        for records in self.arms.values():
            found |= {record.options.get(PLUGIN) for record in records}
        return tuple(sorted(str(plugin) for plugin in found if plugin))

    def views(self, split: str) -> int:
        """Length of a split's view axis."""
        return self.arms[split][-1].stop

    def teacher_index(self, spec: str) -> int:
        """The index of teacher `spec`. Raises: ValueError listing the teachers of the bank."""
        specs = [teacher.spec for teacher in self.teachers]
        if spec not in specs:
            raise ValueError(f"teacher `{spec}` is not in these shards, which have: {specs}")
        return specs.index(spec)


class ShardRecord(StrictModel):
    """One tar of the bank. `keys_sha256`: of its keys in order; None in older banks.

    `blake3`: None in older banks and in those built where the package is not installed.
    """

    name: str = Field(pattern=r"^(train|test)-\d{6}\.tar$")
    split: str = Field(pattern=r"^(train|test)$")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=0)
    sha256: str
    keys_sha256: str | None = None
    blake3: str | None = None


class Packed(StrictModel):
    """A float32 array in JSON: little-endian bytes in base64."""

    shape: tuple[int, ...]
    float32: str


class Manifest(StrictModel):
    """The record of a finished bank, which makes it readable.

    `class_embeddings` holds one entry per teacher: unit vectors (C, D) of the class prompts, None
    for a teacher without a text tower, and where the classes are named by numbers alone.
    `robustness`, where it was measured, holds the teachers' accuracies under corruptions.
    `requested_size`: the side of the images that was requested; None, and then left out of the
    JSON, where it is the data set's own, and in banks built before requests were recorded.
    """

    plan: Plan
    identity: str
    shards: tuple[ShardRecord, ...]
    class_embeddings: tuple[Packed | None, ...]
    created: dict[str, str]
    checksum: str = ""
    robustness: TeacherRobustness | None = None
    requested_size: int | None = None

    def to_json(self, *besides: str, indent: int | None = None) -> str:
        """JSON without the fields `besides`, and without fields that are empty in older banks.

        Leaving those out keeps the checksums of banks written before the fields existed valid.
        """
        left_out: dict[str, Any] = dict.fromkeys(besides, True)
        if not self.robustness:
            left_out["robustness"] = True
        if self.requested_size is None:
            left_out["requested_size"] = True
        added_later = ("keys_sha256", "blake3")
        empty = {f for f in added_later if not any(getattr(shard, f) for shard in self.shards)}
        if empty:
            left_out["shards"] = {"__all__": empty}
        return self.model_dump_json(exclude=left_out, indent=indent)

    def teacher_figures(self, draws: int, exactly: bool = False) -> tuple[dict[str, Figures], ...]:
        """Of each teacher, the stored robustness figures {arm: {figure: value}} that suffice.

        Figures are averages over `robustness.draws` draws of each arm. Who reads them needs
        `draws` draws or more; who adds other arms to them (`exactly`) needs that very number,
        because one number holds for the whole table. Empty where they do not suffice, or were
        measured in the order of the shards.
        """
        stored = self.robustness
        if stored is None or stored.order != "keyed" or stored.draws < draws:
            return tuple({} for _ in self.plan.teachers)
        if exactly and stored.draws != draws:
            return tuple({} for _ in self.plan.teachers)
        return stored.teachers

    def digest(self) -> str:
        """sha256 of everything but `checksum`, which stores it."""
        return hashlib.sha256(self.to_json("checksum").encode()).hexdigest()

    def sealed(self) -> Manifest:
        """The same manifest with its checksum filled in."""
        return self.model_copy(update={"checksum": self.digest()})


def arm_record(manifest: Manifest, split: str, arm: str) -> ArmRecord:
    """The record of `arm` in `split`. Raises: ValueError listing the arms of the split."""
    for record in manifest.plan.arms[split]:
        if record.arm == arm:
            return record
    have = ", ".join(record.arm for record in manifest.plan.arms[split])
    raise ValueError(f"arm `{arm}` is not in these shards' {split} split, which has: {have}")
