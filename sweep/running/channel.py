"""What a driver publishes to its workers: in the key-value store of Ray's control process.

Trials' fields are written once for the whole sweep, and read once by every worker process; Tune
itself is given identities only.
"""

from __future__ import annotations

import functools
import json
import zlib
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = "distilsweep"


def publish(sweep: str, documents: dict[str, dict[str, Any]]) -> None:
    """Make {trial identity: JSON document} known to all workers under the name `sweep`.

    What is published again holds all that was published before.
    """
    data = zlib.compress(json.dumps(documents).encode(), level=1)
    internal_kv._internal_kv_put(f"{sweep}/documents", data, namespace=NAMESPACE)


def forget(sweep: str) -> None:
    """Remove everything that was published under that name."""
    internal_kv._internal_kv_del(f"{sweep}/", del_by_prefix=True, namespace=NAMESPACE)


def request_leave(sweep: str, node: str = "") -> None:
    """Request the trials on one node, or all trials, to save their state and leave."""
    key = f"{sweep}/leave/{node or 'all'}"
    internal_kv._internal_kv_put(key, b"1", namespace=NAMESPACE)


def is_leave_requested(sweep: str, node: str) -> bool:
    """Whether the trials on this node are to leave."""
    found = internal_kv._internal_kv_list(f"{sweep}/leave/", namespace=NAMESPACE)
    return any(key.decode().rpartition("/")[2] in ("all", node) for key in found)


def document(sweep: str, trial: str) -> dict[str, Any]:
    """What was published for a trial."""
    if trial not in _documents(sweep):  # it has come since this process read them
        _documents.cache_clear()
    return _documents(sweep)[trial]


@functools.lru_cache(maxsize=1)
def _documents(sweep: str) -> dict[str, dict[str, Any]]:
    data = internal_kv._internal_kv_get(f"{sweep}/documents", namespace=NAMESPACE)
    if data is None:
        raise RuntimeError("the driver of this sweep has ended")
    return json.loads(zlib.decompress(data))
