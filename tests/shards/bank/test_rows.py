from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

import shards
from shards.bank.manifest import Manifest
from shards.bank.members import pack
from shards.bank.reader import iter_shards, load_manifest


def read(*files: Path) -> list[dict]:
    data = webdataset.WebDataset([str(file) for file in files], shardshuffle=False)
    return list(data.compose(shards.rows))


def test_one_sample_an_image_equal_to_the_reader(bank: Path) -> None:
    manifest: Manifest = load_manifest(str(bank))
    found = read(*(bank / s.name for s in manifest.shards if s.split == "train"))
    assert len(found) == 60
    at = 0
    for shard in iter_shards(str(bank), manifest, "train"):
        for row, key in enumerate(shard.keys):
            sample = found[at]
            assert sample["__key__"] == key
            assert sample["__url__"] == str(bank / shard.record.name)
            assert set(sample) == {"__key__", "__url__", *shard.arrays}
            assert type(sample["label"]) is int
            for name, column in shard.arrays.items():
                assert np.array_equal(sample[name], column[row])
                assert name == "label" or sample[name].dtype == column.dtype
            at += 1


def columns(n: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (n, 4, 4, 3)),
        "label": np.arange(n),
        "params": np.zeros((n, 2, 5)),
        **{f"embedding.{i}": rng.normal(size=(n, 2, 8 + i)) for i in range(2)},
        **{f"norm.{i}": np.ones((n, 2)) for i in range(2)},
    }


def test_rows_have_a_column_for_each_teacher(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(pack(7, columns(), ("a", "b", "c")))
    sample = read(tmp_path / "x.tar")[1]
    assert sample["__key__"] == "b"
    assert sample["embedding.1"].shape == (2, 9)
    assert sample["norm.1"].shape == (2,)


def test_samples_pass_through_webdatasets_own_stages(bank: Path) -> None:
    data = webdataset.WebDataset(str(bank / "train-000000.tar"), shardshuffle=False)
    stages = data.compose(shards.rows).shuffle(10).to_tuple("image", "label").batched(5)
    images, labels = next(iter(stages))
    assert np.asarray(images).shape == (5, 32, 32, 3)
    assert len(labels) == 5


def test_samples_are_copies_that_may_be_written(bank: Path) -> None:
    sample = read(bank / "train-000000.tar")[0]
    assert all(v.flags.writeable and v.base is None for v in sample.values() if hasattr(v, "base"))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(), Bomb(), Bomb()]), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("000000.extra.pkl", pickle.dumps(Bomb()), ("not a member of a bank",)),
        ("000000.other.npy", b"x", ("not a member of a bank",)),
        ("000000.norm.2.npy", objects(), ("000000.norm.2.npy",)),
        ("000000.norm.2.npy", b"x", ("not a readable .npy",)),
        ("000001.cls", b"1", ("not a member of a bank",)),
    ],
)
def test_refusals_name_shard_and_member(
    name: str, data: bytes, parts: tuple[str, ...], tmp_path: Path, refused
) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(pack(0, columns(), ("a", "b", "c")))
    with tarfile.open(file, "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    refused(lambda: read(file), "x.tar", name, *parts)


def group(**changed: bytes) -> dict:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return {"__key__": "000000", "__url__": "x.tar", "label.npy": buffer.getvalue(), **changed}


def test_keys_must_be_there_and_match(refused) -> None:
    refused(lambda: list(shards.rows([group()])), "x.tar: 000000", "no member key.json")
    two = group(**{"key.json": json.dumps(["a", "b"]).encode()})
    refused(lambda: list(shards.rows([two])), "label.npy: 3 rows for 2 keys")
    three = group(**{"key.json": json.dumps(["a", "b", "c"]).encode()})
    assert [sample["label"] for sample in shards.rows([three])] == [0, 1, 2]


def test_importing_shards_stays_cheap() -> None:
    code = "import sys, shards; print(sorted({'numpy', 'torch', 'pydantic'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_a_submodule_of_the_same_name_does_not_hide_the_function() -> None:
    code = "import shards.bank.rows as module, shards; print(shards.rows is module.rows)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
