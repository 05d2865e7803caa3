"""Banks, written: shards one by one, each whole or not there; the manifest last."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from shards.bank.manifest import MANIFEST, PLAN, Manifest, Packed, Plan, ShardRecord
from shards.bank.members import keys_sha256, unpack
from shards.support import storage

LOG = "shards.json"


class BankWriter:
    """Writes a bank into a folder and goes on where an earlier, killed build stopped.

    `plan.json` comes first and says what is being built; `shards.json` lists the shards that
    are published, with their sha256. A folder that holds another plan is refused.
    """

    def __init__(self, location: str, plan: Plan) -> None:
        self.location, self.plan = location, plan
        self._records: dict[str, ShardRecord] = {}
        self._claim()

    def _claim(self) -> None:
        for name in storage.names(self.location):
            if name.startswith(".") and name.endswith(".tmp"):  # a killed build's half file
                storage.delete(storage.join(self.location, name))
        place = storage.join(self.location, PLAN)
        if not storage.exists(place):
            if storage.exists(storage.join(self.location, MANIFEST)):
                raise ValueError(f"{self.location}: has a manifest but no {PLAN}; choose another")
            storage.delete(storage.join(self.location, LOG))  # of a plan that is not there
            storage.write(place, self.plan.model_dump_json(indent=1).encode())
            return
        there = read_json(place)
        mine = json.loads(self.plan.model_dump_json())
        if there != mine:
            raise ValueError(
                f"{self.location} holds other shards: {difference(there, mine)}; choose another "
                "folder or delete this one"
            )
        for record in self._listed():
            if self._intact(record):
                self._records[record.name] = record

    def _listed(self) -> list[ShardRecord]:
        place = storage.join(self.location, LOG)
        if not storage.exists(place):
            return []
        try:
            return TypeAdapter(list[ShardRecord]).validate_python(read_json(place))
        except ValidationError as error:
            raise damaged(place, str(error.errors()[0]["msg"])) from None

    def _intact(self, record: ShardRecord) -> bool:
        place = storage.join(self.location, record.name)
        try:
            return hashlib.sha256(storage.read(place)).hexdigest() == record.sha256
        except FileNotFoundError:
            return False

    @property
    def bytes_there(self) -> int:
        """Bytes of the shards that are published."""
        return sum(record.bytes for record in self._records.values())

    def has(self, split: str, index: int) -> bool:
        return self._name(split, index) in self._records

    @staticmethod
    def _name(split: str, index: int) -> str:
        return f"{split}-{index:06d}.tar"

    def publish(self, split: str, index: int, samples: int, data: bytes) -> None:
        """Write one shard, then note it in the list of published shards."""
        name = self._name(split, index)
        storage.write(storage.join(self.location, name), data)
        self._records[name] = ShardRecord(
            name=name,
            split=split,
            samples=samples,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            keys_sha256=keys_sha256(unpack(data, name)[1]),
        )
        listing = [self._records[n].model_dump() for n in sorted(self._records)]
        storage.write_json(storage.join(self.location, LOG), listing)

    def finish(
        self, class_embeddings: tuple[Packed | None, ...], created: dict[str, str]
    ) -> Manifest:
        """Write the manifest: from now on the bank can be read."""
        manifest = Manifest(
            plan=self.plan,
            identity=self.plan.identity,
            shards=tuple(self._records[name] for name in sorted(self._records)),
            class_embeddings=class_embeddings,
            created=created,
        ).sealed()
        write_manifest(self.location, manifest)
        storage.delete(storage.join(self.location, LOG))
        return manifest


def read_plan(location: str) -> Plan | None:
    """The plan of a build that began; None where there is none, or one of another version.

    Raises: ValueError where it is damaged.
    """
    place = storage.join(location, PLAN)
    if not storage.exists(place):
        return None
    try:
        return Plan.model_validate(read_json(place))
    except ValidationError:
        return None  # the writer says how it differs


def read_json(place: str) -> Any:
    """What an unfinished build has noted. Raises: ValueError naming file and remedy."""
    try:
        return json.loads(storage.read(place))
    except (ValueError, RecursionError) as error:
        raise damaged(place, str(error)) from None


def damaged(place: str, detail: str) -> ValueError:
    return ValueError(f"{place}: damaged ({detail}); delete it, and the same command makes it anew")


def write_manifest(location: str, manifest: Manifest) -> None:
    text = manifest.to_json(indent=1) + "\n"
    storage.write(storage.join(location, MANIFEST), text.encode())


def difference(there: object, mine: object, path: str = "") -> str:
    """The first field in which two JSON values differ, with both values."""
    if isinstance(there, dict) and isinstance(mine, dict):
        for name in sorted({*there, *mine}):
            if there.get(name) != mine.get(name):
                return difference(there.get(name), mine.get(name), f"{path}.{name}".strip("."))
    if isinstance(there, list) and isinstance(mine, list) and len(there) == len(mine):
        for i, (a, b) in enumerate(zip(there, mine, strict=True)):
            if a != b:
                return difference(a, b, f"{path}.{i}")
    return f"{path} is {json.dumps(there)[:120]}, asked for {json.dumps(mine)[:120]}"
