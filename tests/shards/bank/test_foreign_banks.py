"""Banks of images that others packed: built, verified, read and continued as any other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.building.build import build
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.export import export
from shards.verify import verify
from tests.shards.foreign import decoded, encoded, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))


def request_of(spec: str) -> Request:
    return Request(
        dataset=spec, teachers=("embedded",), arms=("crop_flip",), views=2, test_arms=("noise",),
        shard_samples=4,
    )  # fmt: skip


def checked(spec: str, out: Path, counts: dict[str, int]) -> None:
    """Build, interrupt, go on; every sample replayed; images, labels and keys are the data's."""
    manifest = build(request_of(spec), str(out))
    assert (manifest.plan.dataset.spec, manifest.plan.dataset.counts) == (spec, counts)
    assert manifest.plan.dataset.identity == open_dataset(spec).identity
    (out / "manifest.json").unlink()
    (out / "train-000001.tar").unlink()
    assert build(request_of(spec), str(out)).shards == manifest.shards
    verdict = verify(str(out), live=99)
    assert verdict.good, verdict.failures
    assert f"{sum(counts.values())} samples" in verdict.notes["live"]
    data = open_dataset(spec)
    for split, count in counts.items():
        stored = load_splits(str(out), manifest, split, ("clean",))["clean"]
        block = data.read(split, 0, count)
        assert stored.keys == block.keys
        assert np.array_equal(stored.images_NHWC, block.images_NHWC)
        assert np.array_equal(stored.labels_N, block.labels_N)


def test_a_bank_of_webdataset_shards(tmp_path: Path) -> None:
    photos = {}
    for split, rows in (("train", range(7)), ("test", range(7, 10))):
        photos[split] = [encoded(row, "jpeg") for row in rows]
        members = [
            part
            for row, photo in zip(rows, photos[split], strict=True)
            for part in ((f"s{row:03d}.jpg", photo), (f"s{row:03d}.cls", b"%d" % (row % 3)))
        ]
        write_tar(tmp_path / "wds" / f"{split}-000.tar", members)
    (tmp_path / "wds/classnames.txt").write_text("cat\ndog\nemu\n")
    out = tmp_path / "bank"
    checked(f"wds:{tmp_path}/wds/{{split}}-*.tar", out, {"train": 7, "test": 3})
    manifest = load_manifest(str(out))
    assert manifest.plan.dataset.classes == ("cat", "dog", "emu")
    stored = load_splits(str(out), manifest, "train", ("clean",))["clean"]
    assert np.array_equal(stored.images_NHWC, np.stack([decoded(p) for p in photos["train"]]))


@pytest.mark.thorough
def test_a_bank_of_anothers_export_says_the_same_of_the_same_images(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    export(str(bank), str(tmp_path / "wds"), shard_samples=25)
    spec = f"wds:{tmp_path}/wds/{{split}}-*.tar"
    asked = request_60.model_copy(
        update={"dataset": spec, "train_samples": None, "test_samples": None}
    )
    manifest = build(asked, str(tmp_path / "again"))
    assert verify(str(tmp_path / "again"), live=80).good
    for split in ("train", "test"):
        one, other = (
            load_splits(str(place), load_manifest(str(place)), split, ("clean",))["clean"]
            for place in (bank, tmp_path / "again")
        )
        assert np.array_equal(one.images_NHWC, other.images_NHWC)
        assert np.array_equal(one.embedding_NVD, other.embedding_NVD)
        assert np.array_equal(one.labels_N, other.labels_N)
    assert manifest.plan.dataset.classes == load_manifest(str(bank)).plan.dataset.classes


def test_a_bank_of_a_hugging_face_data_set(tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `hf` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    (tmp_path / "data").mkdir()
    for split, rows in (("train", range(6)), ("test", range(6, 9))):
        columns = {
            "img": [{"bytes": encoded(row), "path": None} for row in rows],
            "label": [row % 2 for row in rows],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(tmp_path / "data" / f"{split}.parquet"))
    checked(f"hf:{tmp_path / 'data'}", tmp_path / "bank", {"train": 6, "test": 3})
    stored = load_splits(
        str(tmp_path / "bank"), load_manifest(str(tmp_path / "bank")), "test", ("clean",)
    )["clean"]
    assert np.array_equal(stored.images_NHWC[0], np.asarray(Image.open(io.BytesIO(encoded(6)))))
