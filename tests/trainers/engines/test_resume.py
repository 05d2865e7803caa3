"""What an engine hands out and takes back leaves no trace; and what may change in between."""

from importlib.util import find_spec

import pytest
import torch

from tests.trainers.engines.runs import ZERO

pytestmark = pytest.mark.ranks

deepspeed = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


def same(one, other):
    names = [name for name in one if not name.startswith("gradient/")]
    assert len(names) > 10
    assert [n for n in names if not torch.equal(one[n], other[n])] == []


@pytest.mark.parametrize("ranks", [2, 3])
def test_ddp_goes_on_bit_for_bit(played, ranks):
    """Over 3 ranks DDP would sum in another order after its first backward pass."""
    same(played(f"whole/ddp{ranks}"), played(f"resumed/ddp{ranks}"))


@deepspeed
@pytest.mark.parametrize("name", ZERO)
def test_each_rank_s_part_of_zero_comes_back(played, name):
    same(played("whole/ddp"), played(f"resumed/{name}"))


@pytest.mark.parametrize("name", ["exact/ddp2", "exact/ddp4"])
def test_exact_is_the_same_for_any_number_of_ranks(played, name):
    one = played("exact/single")
    same(one, played(name))
    same(one, played(name, 1))
    gradients = [n for n in one if n.startswith("gradient/")]
    assert [n for n in gradients if not torch.equal(one[n], played(name)[n])] == []
    assert one["model/1.num_batches_tracked"] == 24


def test_exact_goes_on_bit_for_bit(played):
    same(played("exact/single"), played("exact resumed/single"))
    same(played("exact/single"), played("exact resumed/ddp2"))
