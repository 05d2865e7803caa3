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


@functools.lru_cache(maxsize=16)
def keyed_order(keys: tuple[str, ...]) -> NDArray[np.int64]:
    """The rows of N samples in keyed order, the one to use first coming first: int64 (N,).

    Samples are sorted by hash64(ORDER, key_id(key)), and two samples of one hash by their keys. So
    the order is pseudo-random, the same for every arrangement of the samples in shards, and that of
    a subset is the order of the whole with the other samples left out. The array is read-only.
    """
    ids_N = np.fromiter(map(key_id, keys), dtype=np.uint64, count=len(keys))
    words = hash64(ORDER, ids_N).tolist()
    order_N = np.array(sorted(range(len(keys)), key=lambda row: (words[row], keys[row])), np.int64)
    order_N.setflags(write=False)
    return order_N
