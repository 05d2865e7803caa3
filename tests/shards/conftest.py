"""A small real bank, built once, and the means to spoil a copy of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from shards.bank.checksums import checksums
from shards.bank.manifest import Manifest
from shards.bank.members import keys_sha256, pack, unpack
from shards.building.build import build
from shards.building.request import Request
from shards.verify import verify
from tests.shards.foreign import samples, write_tar

REQUEST = Request(
    dataset="digits",
    teachers=("embedded",),
    arms=("crop_flip", "noise"),
    views=2,
    test_arms=("noise",),
    test_views=1,
    train_samples=60,
    test_samples=20,
    shard_samples=25,
)
Rewrite = Callable[..., Manifest]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two OpenMP threads on two busy cores wait for each other 10 times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photographs() -> torch.Tensor:
    """uint8 (40, 3, 32, 32), cut from two real pictures."""
    pictures = load_sample_images().images
    cut = [
        Image.fromarray(pictures[i % 2]).crop((9 * i, 5 * i, 9 * i + 200, 5 * i + 200))
        for i in range(40)
    ]
    return torch.from_numpy(
        np.stack([np.asarray(c.resize((32, 32))) for c in cut]).transpose(0, 3, 1, 2).copy()
    )


@pytest.fixture(scope="session")
def request_60() -> Request:
    return REQUEST


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank") / "digits"
    build(REQUEST, str(folder))
    return folder


@pytest.fixture
def copy(bank: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bank, tmp_path / "copy"))


@pytest.fixture
def rewrite(copy: Path) -> Rewrite:
    """Change one shard of the copy and give the manifest its new, valid size and checksums.

    `keys_too`: that of its keys as well.
    """

    def change(name: str, edit: Callable[[dict, list], None], keys_too: bool = False) -> Manifest:
        arrays, keys = unpack((copy / name).read_bytes(), name)
        columns, names = {n: a.copy() for n, a in arrays.items()}, list(keys)
        edit(columns, names)
        data = pack(int(name[-10:-4]), columns, tuple(names))
        (copy / name).write_bytes(data)
        text = json.loads((copy / "manifest.json").read_text())
        record = next(r for r in text["shards"] if r["name"] == name)
        record |= {"bytes": len(data), **checksums(data)}
        if keys_too:
            record["keys_sha256"] = keys_sha256(tuple(names))
        manifest = Manifest.model_validate_json(json.dumps(text)).sealed()
        (copy / "manifest.json").write_text(manifest.model_dump_json())
        return manifest

    return change


@pytest.fixture(scope="session")
def failed() -> Callable[..., None]:
    """`verify` must find a failure of the check named first, and name every `part`."""

    def check(folder: Path, kind: str, *parts: str) -> None:
        verdict = verify(str(folder))
        assert not verdict.good
        text = " ".join(verdict.failures[kind])
        assert "\n" not in text
        assert not [part for part in parts if part not in text], text

    return check


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """The message of the ValueError that a call must raise: one line, naming every `part`."""

    def check(call: Callable[[], object], *parts: str) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            call()
        text = str(caught.value)
        assert "\n" not in text
        assert not [part for part in parts if part not in text], text
        return text

    return check


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two train shards of 4 and 3 samples, one test shard of 3, three classes."""
    folder = tmp_path / "wds"
    write_tar(folder / "train-0.tar", samples(0, 4))
    write_tar(folder / "train-1.tar", samples(4, 3))
    write_tar(folder / "test-0.tar", samples(7, 3))
    return folder
