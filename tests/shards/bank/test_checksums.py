"""Which of a shard's checksums are compared: the fastest when it is read, all when verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.bank import checksums
from shards.bank.manifest import Manifest
from shards.bank.reader import load_manifest, load_shard
from shards.building.build import build
from shards.verify import verify
from tests.shards.conftest import REQUEST

blake3 = pytest.importorskip("blake3").blake3
Edit = Callable[[dict[str, str | None]], object]


def edited(folder: Path, edit: Edit) -> Manifest:
    """The manifest with the record of its first shard edited, and its own checksum valid."""
    text = json.loads((folder / "manifest.json").read_text())
    edit(text["shards"][0])
    manifest = Manifest.model_validate_json(json.dumps(text)).sealed()
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def test_both_are_those_of_the_bytes() -> None:
    data = bytes(range(256)) * 50
    assert checksums.checksums(data) == {
        "blake3": blake3(data).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.mark.parametrize("name", ["blake3", "sha256"])
def test_verify_compares_each(name: str, copy: Path) -> None:
    manifest = edited(copy, lambda record: record.update({name: "0" * 64}))
    (failure,) = verify(str(copy)).failures["shards"]
    assert f"{manifest.shards[0].name}: {name} " in failure
    assert "the manifest says 0000000000000000..." in failure


@pytest.mark.parametrize(
    ("edit", "installed", "compared"),
    [
        (lambda record: record.update(sha256="0" * 64), True, None),
        (lambda record: record.update(blake3="0" * 64), True, "blake3"),
        (lambda record: record.update(sha256="0" * 64, blake3=None), True, "sha256"),
        (lambda record: record.update(sha256="0" * 64), False, "sha256"),
        (lambda record: record.update(blake3="0" * 64), False, None),
    ],
)
def test_a_reader_compares_the_fastest_that_it_can(
    edit: Edit,
    installed: bool,
    compared: str | None,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    if not installed:
        monkeypatch.setattr(checksums, "blake3", None)
    manifest = edited(copy, edit)
    if compared is None:
        load_shard(str(copy), manifest, manifest.shards[0])
        return
    with pytest.raises(ValueError, match=f"{manifest.shards[0].name}: {compared} "):
        load_shard(str(copy), manifest, manifest.shards[0])


def test_a_bank_built_without_blake3_is_one_of_before(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "blake3", None)
    built = build(REQUEST, str(tmp_path / "bank"))
    assert "blake3" not in (tmp_path / "bank" / "manifest.json").read_text()
    monkeypatch.undo()
    assert built == load_manifest(str(tmp_path / "bank"))
    assert [s.sha256 for s in built.shards] == [s.sha256 for s in load_manifest(str(bank)).shards]
    assert verify(str(tmp_path / "bank")).good
