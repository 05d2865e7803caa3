"""A bank as a torch Dataset gives what its shards hold, in batches, under every stored view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import shards
from shards.arms import make_arm
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.building.build import build
from shards.building.request import Request


def test_samples_are_those_of_the_shards(bank: Path) -> None:
    data = shards.Bank(str(bank), arm="crop_flip", view=1)
    split = load_splits(str(bank), load_manifest(str(bank)), "train", ("crop_flip:4",))
    stored = split["crop_flip:4"]
    assert (len(data), data.views, data.dim) == (60, 2, 512)
    images_BCHW, embedding_BD, label_B = next(iter(DataLoader(data, batch_size=60)))
    params = torch.from_numpy(np.asarray(stored.params_NVP))[:, 1]
    pixels = torch.from_numpy(np.asarray(stored.images_NHWC)).permute(0, 3, 1, 2)
    assert torch.equal(images_BCHW, make_arm("crop_flip").pixels(pixels.contiguous(), params))
    assert np.array_equal(embedding_BD.numpy(), stored.embedding_NVD[:, 1].astype(np.float32))
    assert np.array_equal(label_B.numpy(), stored.labels_N)
    image, embedding, label = data[-1]
    assert torch.equal(image, images_BCHW[-1])
    assert torch.equal(embedding, embedding_BD[-1])
    assert label == int(label_B[-1])
    first = data.at_view(0)
    assert np.array_equal(first[0][1].numpy(), stored.embedding_NVD[0, 0].astype(np.float32))
    assert len(list(data)) == 60  # iteration ends


@pytest.mark.parametrize("streaming", [False, True])
def test_inputs_and_raw_embeddings(bank: Path, streaming: bool) -> None:
    data = shards.Bank(str(bank), "test", images="native", raw=True, streaming=streaming)
    images_BCHW, embedding_BD, _ = data.batch([3, 1])
    preprocess = data.manifest.plan.teachers[0].preprocess.native(32)
    pixels = shards.Bank(str(bank), "test").batch([3, 1])[0]
    assert torch.equal(images_BCHW, preprocess(pixels))
    norms = load_splits(str(bank), data.manifest, "test", ("clean",))["clean"].norm_NV[[3, 1], 0]
    assert torch.allclose(embedding_BD.norm(dim=1), torch.from_numpy(norms), rtol=1e-3)


def test_what_a_bank_lacks_is_named(bank: Path) -> None:
    for wrong, message in (
        ({"split": "val"}, "split: `val`.*train, test"),
        ({"view": 1}, "view: 1; expected 0 to 0"),
        ({"arm": "blur:2"}, "blur"),
        ({"images": "float"}, "images: `float`; expected pixels, native, teacher"),
        ({"teacher": "other"}, "other"),
    ):
        with pytest.raises(ValueError, match=message):
            shards.Bank(str(bank), **wrong)


def test_pixels_are_refused_of_arms_that_they_do_not_show(tmp_path: Path) -> None:
    hidden = ("noise_normalised:0.1", "low_pass:0.25", "high_pass:0.25", "band_noise:2:0.1")
    sizes = {"train_samples": 40, "test_samples": 10}
    request = Request(dataset="digits", teachers=("embedded",), arms=hidden, test_arms=(), **sizes)
    build(request, str(tmp_path))
    clean_BCHW = shards.Bank(str(tmp_path), images="native").batch([0])[0]
    for arm in hidden:
        with pytest.raises(ValueError, match=r"acts on normalised images.*images=\"native\""):
            shards.Bank(str(tmp_path), arm=arm)
        shown_BCHW = shards.Bank(str(tmp_path), arm=arm, images="native").batch([0])[0]
        assert 0.05 < float((shown_BCHW - clean_BCHW).std()) < 2, arm
