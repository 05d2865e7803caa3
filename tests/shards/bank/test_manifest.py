"""Manifests: all that they say; what is edited, damaged, foreign or missing is refused."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from shards import build
from shards.arms import make_arm
from shards.bank.manifest import Manifest
from shards.bank.members import keys_sha256, unpack
from shards.bank.reader import load_manifest, load_shard, parse_manifest
from shards.bank.splits import load_splits
from shards.datasets import open_dataset
from shards.teachers import open_teacher
from shards.teachers.prompts import templates_for
from shards.verify import verify


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda m: m["plan"].update(seed=99), ("checksum", "edited")),
        (lambda m: m["plan"]["teachers"][0].update(dim=768), ("checksum", "edited")),
        (lambda m: m.update(identity="0" * 64), ("checksum", "edited")),
        (lambda m: m["plan"].update(colour="red"), ("plan.colour",)),
        (lambda m: m["plan"].update(format="shards/9"), ("shards/9", "reads shards/2")),
        (lambda m: m["plan"].pop("arms"), ("plan.arms",)),
        (lambda m: m["shards"][0].update(name="../x.tar"), ("shards.0.name",)),
        (lambda m: m["shards"][0].update(split="val"), ("shards.0.split",)),
        (lambda m: m.clear(), ("plan",)),
    ],
)
def test_edited_manifests_are_refused(edit, parts, bank: Path, refused) -> None:
    value = json.loads((bank / "manifest.json").read_text())
    edit(value)
    text = json.dumps(value).encode()
    refused(lambda: parse_manifest(text, "m.json"), "m.json", *parts)


def test_a_manifest_that_is_no_json_is_refused(refused) -> None:
    for text in (b"", b"{", b"\xff\x00", b"[]"):
        refused(lambda text=text: parse_manifest(text, "m.json"), "m.json", "build")


def test_missing_manifest_says_that_the_build_did_not_finish(tmp_path: Path, refused) -> None:
    refused(lambda: load_manifest(str(tmp_path)), "manifest.json is missing", "did not finish")


def test_a_manifest_says_all_that_determined_the_bank(tmp_path: Path, monkeypatch, capsys) -> None:
    out, other = tmp_path / "bank", "timm:test_vit.r160_in1k:none"
    argv = [
        *("--dataset", "digits", "--teacher", "embedded", "--teacher", other, "--device", "cpu"),
        *("--arm", "crop_flip", "--arm", "noise:0.2", "--views", "2", "--test-arm", "noise"),
        *("--train-samples", "30", "--test-samples", "10", "--shard-samples", "20"),
        *("--seed", "5", "--precision", "fp32", "--out", str(out)),
    ]
    monkeypatch.setattr("sys.argv", ["shards/build.py", *argv])
    with pytest.raises(SystemExit) as ended:
        build.main(argv)
    assert not ended.value.code
    told = json.loads((out / "manifest.json").read_text())
    plan, created = told["plan"], told["created"]
    data = open_dataset("digits", train_samples=30, test_samples=10)
    assert plan["format"] == "shards/2"
    assert plan["dataset"] == {
        "spec": "digits", "identity": data.identity, "image_size": 32,
        "classes": list(data.classes), "train_samples": 30, "test_samples": 10,
        "counts": {"train": 30, "test": 10},
    }  # fmt: skip
    assert plan["teachers"] == [_teacher("embedded"), _teacher(other)]
    assert plan["arms"] == {
        "train": [
            _arm("clean", 0, 1),
            _arm("crop_flip:4", 1, 3, pad=4),
            _arm("noise:0.2", 3, 5, sigma=0.2, space="pixel", unit="[0, 1] pixels", clipped=True),
        ],
        "test": [
            _arm("clean", 0, 1),
            _arm("noise:0.1", 1, 2, sigma=0.1, space="pixel", unit="[0, 1] pixels", clipped=True),
        ],
    }
    assert plan["templates"] == list(templates_for("digits"))
    assert (plan["seed"], plan["shard_samples"], plan["device"]) == (5, 20, "cpu")
    assert told["shards"] == [
        _shard(out, "test", 0, 10), _shard(out, "train", 0, 20), _shard(out, "train", 1, 10)
    ]  # fmt: skip
    first, second = told["class_embeddings"]
    assert (first["shape"], second) == ([10, 512], None)
    assert created["command"] == " ".join(["shards/build.py", *argv])
    for library in ("torch", "numpy", "open_clip_torch", "timm", "pillow", "scikit-learn"):
        assert created[library] == version(library)
    assert created["python"] == platform.python_version()
    assert created["device"] == "cpu"
    assert float(created["seconds"]) > 0
    assert int(created["threads"]) >= 1


def _teacher(spec: str) -> dict:
    live = open_teacher(spec)
    return {
        "spec": spec, "weights_sha256": live.weights_sha256, "dim": live.dim,
        "parameters": live.parameters, "precision": "fp32",
        "preprocess": live.preprocess.model_dump(mode="json"),
    }  # fmt: skip


def _arm(spec: str, start: int, stop: int, **options) -> dict:
    columns = list(make_arm(spec).columns)
    return {"arm": spec, "columns": columns, "options": options, "start": start, "stop": stop}


def _shard(folder: Path, split: str, index: int, samples: int) -> dict:
    data = (folder / f"{split}-{index:06d}.tar").read_bytes()
    blake3 = pytest.importorskip("blake3").blake3
    return {
        "name": f"{split}-{index:06d}.tar", "split": split, "samples": samples,
        "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        "blake3": blake3(data).hexdigest(),
        "keys_sha256": keys_sha256(unpack(data, "here")[1]),
    }  # fmt: skip


@pytest.mark.parametrize(
    "edit",
    [
        lambda keys: keys.__setitem__(7, "test/000001"),
        lambda keys: keys.__setitem__(7, keys[7] + "0"),
        lambda keys: keys.reverse(),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_keys_that_do_not_belong_are_refused_whatever_the_hash(
    edit, streaming: bool, copy: Path, rewrite, refused, failed
) -> None:
    """In training too, where no arm's draws could tell."""
    name = "train-000001.tar"
    manifest = rewrite(name, lambda arrays, keys: edit(keys))

    def load() -> object:
        return load_splits(str(copy), manifest, "train", ("clean",), streaming=streaming)

    refused(load, str(copy / name), "its keys", "not those that were built")
    failed(copy, "shards", name, "its keys")


@pytest.mark.parametrize("lacking", [("blake3",), ("blake3", "keys_sha256")])
def test_a_bank_from_before_a_checksum_existed_is_read(lacking, bank: Path, copy: Path) -> None:
    pytest.importorskip("blake3")
    text = json.loads((copy / "manifest.json").read_text())
    for record in text["shards"]:
        for name in lacking:
            assert len(record.pop(name)) == 64
    old = Manifest.model_validate_json(json.dumps(text)).sealed()
    assert not any(name in old.to_json() for name in lacking)
    (copy / "manifest.json").write_text(old.to_json())
    assert verify(str(copy)).good
    shards = [load_shard(str(p), load_manifest(str(p)), old.shards[1]) for p in (copy, bank)]
    assert np.array_equal(shards[0].arrays["image"], shards[1].arrays["image"])
