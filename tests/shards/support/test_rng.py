from __future__ import annotations

import numpy as np
import torch

from shards.support import rng


def test_numpy_and_torch_mix_to_the_same_bits() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 64, 1000, dtype=np.uint64)
    words[:3] = (0, 1, (1 << 64) - 1)
    with np.errstate(over="ignore"):
        by_numpy = rng._mix_numpy(words)
    by_torch = rng._mix_torch(torch.from_numpy(words.view(np.int64)))
    assert np.array_equal(by_numpy.view(np.int64), by_torch.numpy())


def test_hash_of_a_tuple_is_fixed_and_depends_on_every_word_and_on_order() -> None:
    assert int(rng.hash64(1, 2, 3)) == 15020427595393229491
    hashes = [int(rng.hash64(*w)) for w in ((1, 2, 3), (3, 2, 1), (1, 2, 4), (1, 2), (0, 1, 2))]
    assert len(set(hashes)) == len(hashes)


def test_hash_bits_are_balanced_over_a_counter() -> None:
    words = rng.hash64(7, np.arange(20_000, dtype=np.uint64))
    ones = [(int(((words >> np.uint64(b)) & np.uint64(1)).sum()) / 20_000) for b in range(64)]
    assert max(abs(share - 0.5) for share in ones) < 0.02


def test_key_id_is_fixed() -> None:
    assert rng.key_id("digit/0000") == 17576927959690103286


def test_normal_table_is_symmetric_with_mean_0_and_variance_1() -> None:
    table = rng.normal_table().double() / (1 << rng.NORMAL_BITS)
    assert len(table) == 65536
    assert torch.equal(table, -table.flip(0))
    assert torch.equal(table, table.sort().values)
    assert abs(table.mean()) < 1e-12
    assert abs(table.var(unbiased=False) - 1) < 1e-4
    assert 4.2 < table.max() < 4.4


def test_normal_fixed_golden_values() -> None:
    drawn = rng.normal_fixed(torch.tensor([1, -7]), 6)
    assert drawn.dtype == torch.int32
    assert drawn.tolist() == [
        [-1443, 362, -3759, 687, 5852, -1073],
        [-4042, -2588, -5361, -802, 753, 2611],
    ]


def test_normal_fixed_does_not_depend_on_the_batch_or_the_count() -> None:
    seeds = torch.tensor([5, 9, -3, 1 << 62])
    together = rng.normal_fixed(seeds, 101)
    for i, seed in enumerate(seeds):
        assert torch.equal(rng.normal_fixed(seed[None], 101)[0], together[i])
    assert torch.equal(rng.normal_fixed(seeds, 10), together[:, :10])


def test_normal_fixed_has_the_moments_of_a_normal_distribution() -> None:
    drawn = rng.normal_fixed(torch.arange(64), 4096).double() / (1 << rng.NORMAL_BITS)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs((drawn**4).mean() - 3) < 0.1
    lag = (drawn[:, 1:] * drawn[:, :-1]).mean()
    across = (drawn[1:] * drawn[:-1]).mean()
    assert max(abs(lag), abs(across)) < 0.01
