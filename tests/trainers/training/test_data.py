"""Data on the device: order, inputs and targets are pure functions of what is stored."""

import numpy as np
import pytest
import torch

from shards.arms import make_arm, view_of, view_offsets
from shards.bank.order import keyed_order
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from trainers.training.data import Data, permutation

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["noise:0.1", "crop_flip:4"])
def loaded(bank, request):
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "train", (request.param,))[request.param]
    preprocess = manifest.plan.teachers[0].preprocess.native(manifest.plan.dataset.image_size)
    return split, make_arm(request.param), preprocess


def test_order_is_a_pure_permutation():
    torch.manual_seed(1)
    outside = torch.get_rng_state()
    first = permutation(3, 5, 100)
    torch.rand(10)
    assert torch.equal(first, permutation(3, 5, 100))
    torch.set_rng_state(outside)
    permutation(3, 5, 100)
    assert torch.equal(torch.get_rng_state(), outside)
    assert first.dtype == torch.int64
    assert torch.equal(first.sort().values, torch.arange(100))


def test_orders_differ_between_epochs_and_seeds():
    orders = {
        tuple(permutation(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25
    permutation(2**63 - 1, 0, 4)  # the largest seed there is


def test_inputs_are_the_stored_draws_applied(loaded):
    split, arm, preprocess = loaded
    data = Data(split, arm, preprocess, CPU)
    index_B, view_B = torch.tensor([5, 0, 199, 5]), torch.tensor([0, 1, 1, 1])
    found = data.inputs(index_B, view_B)
    images_BCHW = torch.from_numpy(split.images_NHWC)[index_B].permute(0, 3, 1, 2)
    params_BP = torch.from_numpy(split.params_NVP[index_B.numpy(), view_B.numpy()])
    shown = arm.pixels(images_BCHW, params_BP)
    expected = arm.normalised(preprocess(shown), params_BP)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert not torch.equal(found[0], found[3])  # two views of one image


def test_targets_are_the_embeddings_of_the_very_view(loaded):
    split, arm, preprocess = loaded
    data = Data(split, arm, preprocess, CPU)
    offsets_N = view_offsets(split.keys, 2)
    assert len(set(offsets_N.tolist())) == 2  # samples do not all start at one view
    index_B = torch.tensor([7, 3, 120, 64])
    shown = []
    for epoch in range(3):
        images_BCHW, target_BD = data.batch(index_B, epoch)
        view_B = view_of(epoch, offsets_N[index_B], 2)
        shown.append(view_B.tolist())
        at = index_B.numpy(), view_B.numpy()
        raw_BD = split.embedding_NVD[at].astype(np.float32) * split.norm_NV[at][:, None]
        assert np.array_equal(target_BD.numpy(), raw_BD)
        assert torch.equal(images_BCHW, data.inputs(index_B, view_B))
        assert target_BD.dtype == torch.float32
    assert shown[0] != shown[1]
    assert shown[0] == shown[2]


def test_a_view_is_every_sample_in_keyed_order(loaded):
    split, arm, preprocess = loaded
    data = Data(split, arm, preprocess, CPU)
    parts = list(data.view(1, 64))
    assert [len(part) for part in parts] == [64, 64, 64, 8]
    every = torch.tensor(keyed_order(split.keys))
    assert sorted(every.tolist()) == list(range(200))
    assert torch.equal(torch.cat(parts), data.inputs(every, torch.ones_like(every)))


@pytest.mark.parametrize("arm", ["noise:0.1", "crop_flip:4"])
def test_streamed_data_give_the_very_batches_of_resident_data(bank, arm):
    manifest = load_manifest(bank)
    preprocess = manifest.plan.teachers[0].preprocess.native(manifest.plan.dataset.image_size)
    kept, left = (
        Data(
            load_splits(bank, manifest, "train", (arm,), streaming=streaming)[arm],
            make_arm(arm),
            preprocess,
            CPU,
        )
        for streaming in (False, True)
    )
    assert len(kept) == len(left)
    parts = permutation(0, 1, len(kept)).split(33)
    pairs = list(zip(kept.batches(parts, 1), left.batches(parts, 1), strict=True))
    assert len(pairs) == len(parts)
    for one, other in pairs:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for one, other in zip(kept.view(1, 64), left.view(1, 64), strict=True):
        assert torch.equal(one, other)
