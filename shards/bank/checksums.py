"""The checksums of a shard's bytes: sha256, and blake3, which is several times as fast.

Both are cryptographic hashes of 256 bits. Readers compare blake3 where the manifest has it and the
package is installed, and sha256 otherwise; `shards.verify` compares both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from shards.bank.manifest import ShardRecord

try:
    from blake3 import blake3
except ImportError:  # shards can be read and built without it
    blake3 = None


def checksums(data: bytes) -> dict[str, str]:
    """{name of the checksum: hexadecimal digest}, the fields of a `ShardRecord`."""
    return {name: digest(data) for name, digest in _digests().items()}


def check_checksums(data: bytes, path: str, record: ShardRecord, every: bool = False) -> None:
    """Raises: ValueError where the fastest checksum of the record, or any (`every`), differs."""
    digests = _digests()
    recorded = [name for name in digests if getattr(record, name) is not None]
    for name in recorded if every else recorded[:1]:
        found, wanted = digests[name](data), getattr(record, name)
        if found != wanted:
            raise ValueError(
                f"shard {path}: {name} {found[:16]}..., the manifest says {wanted[:16]}...; "
                "delete it and build again"
            )


def _digests() -> dict[str, Callable[[bytes], str]]:
    """What this machine can compute, the fastest first."""
    found: dict[str, Callable[[bytes], str]] = {}
    if (fast := blake3) is not None:
        found["blake3"] = lambda data: fast(data).hexdigest()
    found["sha256"] = lambda data: hashlib.sha256(data).hexdigest()
    return found
