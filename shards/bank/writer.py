"""Writing a bank: shards one by one, each atomically, and the manifest last."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from shards.bank.checksums import check_checksums, checksums
from shards.bank.manifest import MANIFEST, PLAN, Manifest, Packed, Plan, ShardRecord
from shards.bank.members import keys_sha256, unpack
from shards.support import storage

LOG = "shards.json"


class BankWriter:
    """Writes a bank into a folder, continuing an earlier build that was interrupted.

    `plan.json` is written first and records what is being built; `shards.json` lists the shards
    that are complete, with their checksums.
    Raises: ValueError for a folder that holds another plan.
    """

    def __init__(self, location: str, plan: Plan) -> None:
        self.location, self.plan = location, plan
        self._records: dict[str, ShardRecord] = {}
        self._claim()

    def _claim(self) -> None:
        for name in storage.names(self.location):
            if name.startswith(".") and name.endswith(".tmp"):  # left by a build that was killed
                storage.delete(storage.join(self.location, name))
        path = storage.join(self.location, PLAN)
        if not storage.exists(path):
            if storage.exists(storage.join(self.location, MANIFEST)):
                raise ValueError(
                    f"{self.location}: has a manifest but no {PLAN}; choose another folder"
                )
            storage.delete(storage.join(self.location, LOG))  # belongs to a plan that was deleted
            storage.write(path, self.plan.model_dump_json(indent=1).encode())
            return
        stored = read_json(path)
        requested = json.loads(self.plan.model_dump_json())
        if stored != requested:
            raise ValueError(
                f"{self.location} holds other shards: {difference(stored, requested)}; choose "
                "another folder or delete this one"
            )
        for record in _listed(self.location):
            if self._intact(record):
                self._records[record.name] = record

    def _intact(self, record: ShardRecord) -> bool:
        path = storage.join(self.location, record.name)
        try:
            check_checksums(storage.read(path), path, record)
        except (FileNotFoundError, ValueError):
            return False
        return True

    @property
    def bytes_published(self) -> int:
        """Bytes of the shards that are complete."""
        return sum(record.bytes for record in self._records.values())

    def has(self, split: str, index: int) -> bool:
        """Whether this shard is complete."""
        return self._name(split, index) in self._records

    @staticmethod
    def _name(split: str, index: int) -> str:
        return f"{split}-{index:06d}.tar"

    def publish(self, split: str, index: int, samples: int, data: bytes) -> None:
        """Write one shard, then list it as complete.

        The list is written after the shard, so a shard in it is never partial.
        """
        name = self._name(split, index)
        storage.write(storage.join(self.location, name), data)
        found = checksums(data)
        self._records[name] = ShardRecord(
            name=name,
            split=split,
            samples=samples,
            bytes=len(data),
            sha256=found["sha256"],
            blake3=found.get("blake3"),
            keys_sha256=keys_sha256(unpack(data, name)[1]),
        )
        listing = [self._records[n].model_dump() for n in sorted(self._records)]
        storage.write_json(storage.join(self.location, LOG), listing)

    def finish(
        self,
        class_embeddings: tuple[Packed | None, ...],
        created: dict[str, str],
        requested_size: int | None = None,
    ) -> Manifest:
        """Write the manifest: from now on the bank is complete and can be read.

        The arguments are fields of `Manifest`.
        """
        manifest = Manifest(
            plan=self.plan,
            identity=self.plan.identity,
            shards=tuple(self._records[name] for name in sorted(self._records)),
            class_embeddings=class_embeddings,
            created=created,
            requested_size=requested_size,
        ).sealed()
        write_manifest(self.location, manifest)
        storage.delete(storage.join(self.location, LOG))
        return manifest


def read_plan(location: str) -> Plan | None:
    """The plan of a build that was started; None where there is none, or one of another version.

    Raises: ValueError where it is damaged.
    """
    path = storage.join(location, PLAN)
    if not storage.exists(path):
        return None
    try:
        return Plan.model_validate(read_json(path))
    except ValidationError:
        return None  # BankWriter reports how it differs


def bytes_listed(location: str) -> int:
    """Bytes of the shards that an unfinished build has completed, as it has listed them.

    Raises: ValueError where the list is damaged.
    """
    if not storage.exists(storage.join(location, PLAN)):
        return 0  # a build deletes such a list
    there = set(storage.names(location))
    return sum(record.bytes for record in _listed(location) if record.name in there)


def _listed(location: str) -> list[ShardRecord]:
    """The shards that an earlier build completed. Raises: ValueError for a damaged list."""
    path = storage.join(location, LOG)
    if not storage.exists(path):
        return []
    try:
        return TypeAdapter(list[ShardRecord]).validate_python(read_json(path))
    except ValidationError as error:
        raise damaged(path, str(error.errors()[0]["msg"])) from None


def read_json(path: str) -> Any:
    """JSON that an unfinished build left. Raises: ValueError naming file and remedy."""
    try:
        return json.loads(storage.read(path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None


def damaged(path: str, detail: str) -> ValueError:
    """The error for a file that is not valid JSON of its kind."""
    return ValueError(f"{path}: damaged ({detail}); delete it and run the same command again")


def write_manifest(location: str, manifest: Manifest) -> None:
    """Write the manifest of the bank at `location`, replacing an earlier one atomically."""
    text = manifest.to_json(indent=1) + "\n"
    storage.write(storage.join(location, MANIFEST), text.encode())


def difference(stored: Any, requested: Any, field: str = "") -> str:
    """The first field in which two JSON values differ, with both values, as a clause."""
    if isinstance(stored, dict) and isinstance(requested, dict):
        for name in sorted({*stored, *requested}):
            a, b = stored.get(name), requested.get(name)
            if a != b:
                return difference(a, b, f"{field}.{name}".strip("."))
    if isinstance(stored, list) and isinstance(requested, list) and len(stored) == len(requested):
        for i, (a, b) in enumerate(zip(stored, requested, strict=True)):
            if a != b:
                return difference(a, b, f"{field}.{i}")
    return f"{field} is {json.dumps(stored)[:120]}, requested {json.dumps(requested)[:120]}"
