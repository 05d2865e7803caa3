from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.bank.writer import write_manifest
from shards.datasets import open_dataset
from shards.export import export, main
from shards.support import storage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))


def test_wds_reads_the_export_back(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(str(bank), str(out), shard_samples=7) == {"train": 60, "test": 20}
    manifest = load_manifest(str(bank))
    data = open_dataset(f"wds:{out}/{{split}}-*.tar")
    assert data.classes == manifest.plan.dataset.classes
    for split in ("train", "test"):
        stored = load_splits(str(bank), manifest, split, ("clean",))["clean"]
        block = data.read(split, 0, data.count(split))
        assert np.array_equal(block.images_NHWC, stored.images_NHWC[:])
        assert np.array_equal(block.labels_N, stored.labels_N)
    assert storage.names(str(out)) == [
        "classnames.txt",
        *(f"test-{i:06d}.tar" for i in range(3)),
        *(f"train-{i:06d}.tar" for i in range(9)),
    ]
    assert data.keys("train")[59] == "train/train-000008/000000059"


def test_other_tools_find_every_member(bank: Path, tmp_path: Path) -> None:
    export(str(bank), str(tmp_path / "out"), ("train",))
    manifest = load_manifest(str(bank))
    arm = manifest.plan.arms["train"][1].arm
    whole = load_splits(str(bank), manifest, "train", ("clean", arm))
    url = str(tmp_path / "out/train-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{row:09d}" for row in range(60)]
    for row in (0, 37):
        sample = samples[row]
        told = json.loads(sample["json"])
        assert told["key"] == whole["clean"].keys[row]
        assert told["label"] == int(sample["cls"]) == whole["clean"].labels_N[row]
        assert told["class"] == manifest.plan.dataset.classes[told["label"]]
        place = next(a for a in told["arms"] if a["arm"] == arm)
        embedding_VD = np.load(io.BytesIO(sample["embedding.0.npy"]))
        norm_V = np.load(io.BytesIO(sample["norm.0.npy"]))
        params_VP = np.load(io.BytesIO(sample["params.npy"]))
        at = slice(place["start"], place["stop"])
        assert np.array_equal(embedding_VD[at], whole[arm].embedding_NVD[:][row])
        assert np.array_equal(norm_V[at], whole[arm].norm_NV[row])
        used = len(place["columns"])
        assert np.array_equal(params_VP[at, :used], whole[arm].params_NVP[:][row])


def test_exported_npy_images_are_the_banks(bank: Path, tmp_path: Path) -> None:
    export(str(bank), str(tmp_path / "out"), ("test",), image="npy")
    stored = load_splits(str(bank), load_manifest(str(bank)), "test", ("clean",))["clean"]
    with tarfile.open(tmp_path / "out/test-000000.tar") as tar:
        member = tar.extractfile("000000003.image.npy")
        assert member
        assert np.array_equal(np.load(io.BytesIO(member.read())), stored.images_NHWC[:][3])


def digest(folder: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())]


def test_the_same_bank_gives_the_same_bytes(bank: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(str(bank), str(tmp_path / name), shard_samples=25)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_export_command_counts_samples_and_refuses_a_full_folder(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as stop:
        main([str(bank), "--out", out, "--split", "test", "--shard-samples", "8"])
    assert stop.value.code == 0
    printed = capsys.readouterr()
    assert printed.out == f"20 test samples -> {out}\n"
    assert "100%" in printed.err
    assert len(storage.names(out)) == 4
    again = failing([str(bank), "--out", out], capsys)
    assert again.startswith(f"error: --out {out}: not empty (contains classnames.txt)")


def test_one_line_errors(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "manifest.json is missing" in failing([str(tmp_path), *out], capsys)
    none = failing([str(copy), "--shard-samples", "0", *out], capsys)
    assert "--shard-samples: 0; expected 1 or more" in none
    assert not (tmp_path / "out").exists()
    shard = copy / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    cut = failing([str(copy), *out], capsys)
    assert "train-000001.tar" in cut
    assert not (tmp_path / "out/classnames.txt").exists()


@pytest.mark.parametrize("name", ["", " \n", "a\x00b"])
def test_class_names_that_no_line_can_hold_are_refused_before_anything_is_written(
    name: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = load_manifest(str(copy))
    classes = (*manifest.plan.dataset.classes[:3], name, *manifest.plan.dataset.classes[4:])
    data = manifest.plan.dataset.model_copy(update={"classes": classes})
    plan = manifest.plan.model_copy(update={"dataset": data})
    renamed = manifest.model_copy(update={"plan": plan, "identity": plan.identity})
    write_manifest(str(copy), renamed.sealed())
    said = failing([str(copy), "--out", str(tmp_path / "out")], capsys)
    assert f"{copy}: class 3 is named {name!r}, which is no line of classnames.txt" in said
    assert not (tmp_path / "out").exists()
