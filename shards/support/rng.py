"""Counter-based random numbers in integer arithmetic: the same bits on every device.

`hash64(words)` applies SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014) to the words of a
counter, one after another. NumPy (uint64) and torch (int64, two's complement) give the same 64
bits. Normal variates are looked up in a fixed-point table of the inverse normal distribution at
65,536 equally likely midpoints, because `log` and `cos` round differently on different devices.
The table's largest value is 4.3 sigma and its variance differs from 1 by less than 1e-4.
"""

from __future__ import annotations

import functools
import hashlib
import statistics

import numpy as np
import torch

GOLDEN = 0x9E3779B97F4A7C15
MIX1 = 0xBF58476D1CE4E5B9
MIX2 = 0x94D049BB133111EB
NORMAL_BITS = 12  # fractional bits of the normal table


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix_numpy(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX2)
    return z ^ (z >> np.uint64(31))


def hash64(*words: np.ndarray | np.uint64 | int) -> np.ndarray:
    """Elementwise uint64 hash of a tuple of words (unsigned 64-bit, broadcast)."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = _mix_numpy((state ^ np.asarray(word, dtype=np.uint64)) + np.uint64(GOLDEN))
    return state


def key_id(key: str) -> int:
    """64 bits of a sample's key (BLAKE2b), by which every counter includes the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix_torch(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift(z, 30)) * _signed(MIX1)
    z = (z ^ _shift(z, 27)) * _signed(MIX2)
    return z ^ _shift(z, 31)


@functools.cache
def normal_table() -> torch.Tensor:
    """int32 (65536,): round(2^12 * Phi^-1((i + 1/2) / 65536))."""
    inverse = statistics.NormalDist().inv_cdf
    upper = [round(inverse((i + 0.5) / 65536) * (1 << NORMAL_BITS)) for i in range(32768, 65536)]
    return torch.tensor([-z for z in reversed(upper)] + upper, dtype=torch.int32)


def uniform_fixed(seeds_B: torch.Tensor, count: int) -> torch.Tensor:
    """Uniform integers below 2^16: int64 seeds (B,) -> int64 (B, count).

    One 64-bit hash of (seed, counter) gives four of them.
    """
    blocks = torch.arange((count + 3) // 4, device=seeds_B.device, dtype=torch.int64)
    words = _mix_torch(seeds_B[:, None] + (blocks + 1) * _signed(GOLDEN))
    lanes = [_shift(words, 16 * lane) & 0xFFFF for lane in (0, 1, 2)] + [_shift(words, 48)]
    return torch.stack(lanes, dim=-1).flatten(1)[:, :count]


def normal_fixed(seeds_B: torch.Tensor, count: int) -> torch.Tensor:
    """Normal variates in units of 2^-12: int64 seeds (B,) -> int32 (B, count)."""
    return _table_on(seeds_B.device)[uniform_fixed(seeds_B, count)]


@functools.lru_cache(maxsize=8)
def _table_on(device: torch.device) -> torch.Tensor:
    return normal_table().to(device)
