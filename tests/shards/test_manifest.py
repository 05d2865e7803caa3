"""Manifests: what is edited, damaged, foreign or missing is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shards.format import Manifest
from shards.reader import load_manifest, load_shard, parse_manifest
from shards.splits import load_splits
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


def test_a_bank_from_before_keys_had_a_checksum_is_read(bank: Path, copy: Path) -> None:
    text = json.loads((copy / "manifest.json").read_text())
    for record in text["shards"]:
        assert len(record.pop("keys_sha256")) == 64
    old = Manifest.model_validate_json(json.dumps(text)).sealed()
    assert "keys_sha256" not in old.to_json()
    (copy / "manifest.json").write_text(old.to_json())
    assert verify(str(copy)).good
    shards = [load_shard(str(p), load_manifest(str(p)), old.shards[1]) for p in (copy, bank)]
    assert np.array_equal(shards[0].arrays["image"], shards[1].arrays["image"])
