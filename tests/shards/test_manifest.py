"""Manifests: what is edited, damaged, foreign or missing is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.format import parse_manifest
from shards.reader import load_manifest


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
