"""The order of samples wherever an order matters to a measurement: by key, not by shard.

Some measurements use only the first samples, divide samples into batches or groups, or break ties
by position. In the order of the shards their values would depend on how images happen to be stored:
a folder of images is stored class by class, so that dropping the last samples drops a class.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from shards.support.rng import hash64, key_id

ORDER = 0x0D0E12  # the first word of every hash; another value would give another order
HELD_OUT = 0x4E1D07  # likewise, of the draw of validation samples


@functools.lru_cache(maxsize=16)
def keyed_order(keys: tuple[str, ...]) -> NDArray[np.int64]:
    """The rows of N samples in keyed order, the one to use first coming first: int64 (N,).

    Samples are sorted by hash64(ORDER, key_id(key)), and two samples of one hash by their keys. So
    the order is pseudo-random, the same for every arrangement of the samples in shards, and that of
    a subset is the order of the whole with the other samples left out. The array is read-only.
    """
    order_N = _order_by_hash(keys, ORDER)
    order_N.setflags(write=False)
    return order_N


def held_out_rows(keys: tuple[str, ...], count: int, seed: int) -> NDArray[np.int64]:
    """The rows of `count` of N samples, drawn without replacement: int64 (count,), ascending.

    They are the first in the order of hash64(HELD_OUT, seed, key_id(key)): a draw that depends on
    the keys and the seed alone, and is independent of `keyed_order`. Those of a smaller count are
    among those of a larger one.
    """
    return np.sort(_order_by_hash(keys, HELD_OUT, seed)[:count])


def _order_by_hash(keys: tuple[str, ...], *words: int) -> NDArray[np.int64]:
    """Rows sorted by hash64(*words, key_id(key)), and those of one hash by their keys."""
    ids_N = np.fromiter(map(key_id, keys), dtype=np.uint64, count=len(keys))
    hashes = hash64(*words, ids_N).tolist()
    return np.array(sorted(range(len(keys)), key=lambda row: (hashes[row], keys[row])), np.int64)
