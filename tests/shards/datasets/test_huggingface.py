from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.datasets import huggingface, open_dataset

datasets = pytest.importorskip("datasets", reason="the extra `hf` is not installed")
PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def encoded(row: int, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS_NHWC[row]).resize(size).save(buffer, "png")
    return buffer.getvalue()


def table(rows: range, labels: list[int | None] | None = None, kind=None, **more):
    kind = kind or datasets.ClassLabel(names=["cat", "dog", "emu"])
    columns = {
        "img": [{"bytes": encoded(row), "path": None} for row in rows],
        "label": labels or [row % 3 for row in rows],
        **{name: [row % 2 for row in rows] for name in more},
    }
    features = datasets.Features({"img": datasets.Image(), "label": kind, **more})
    return datasets.Dataset.from_dict(columns, features=features)


def save(folder: Path, **splits) -> str:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        rows.to_parquet(str(folder / f"{name}.parquet"))
    return f"hf:{folder}"


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return save(tmp_path / "data", train=table(range(8)), test=table(range(8, 12)))


def test_images_labels_keys_and_classes(spec: str) -> None:
    data = open_dataset(spec)
    assert (data.count("train"), data.count("test"), data.image_size) == (8, 4, 32)
    assert data.classes == ("cat", "dog", "emu")
    assert data.labels("test").tolist() == [2, 0, 1, 2]
    block = data.read("train", 3, 6)
    assert np.array_equal(block.images_NHWC, PIXELS_NHWC[3:6])
    assert block.keys == ("train/000003", "train/000004", "train/000005")
    subset = open_dataset(spec, train_samples=3)
    assert sorted(subset.labels("train").tolist()) == [0, 1, 2]


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_validation_where_there_is_no_labelled_test(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    spec = save(folder, train=table(range(8)), **{name: table(range(8, 12))})
    assert np.array_equal(open_dataset(spec).read("test", 0, 4).images_NHWC, PIXELS_NHWC[8:])
    save(folder, test=table(range(4), labels=[-1] * 4))
    assert open_dataset(spec).labels("test").tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("kind", ["int32", "int8", "uint8", "uint32", "uint64"])
def test_integer_labels_without_names(kind: str, tmp_path: Path) -> None:
    value = datasets.Value(kind)
    spec = save(
        tmp_path / "data", train=table(range(8), kind=value), test=table(range(1), kind=value)
    )
    data = open_dataset(spec)
    assert data.classes == ("0", "1", "2")
    assert data.labels("train").tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert data.labels("train").dtype == np.int64


@pytest.mark.parametrize("kind", ["int16", "uint8", "uint64"])
def test_a_missing_integer_label_is_refused(kind: str, tmp_path: Path, refused) -> None:
    value = datasets.Value(kind)
    train = table(range(4), labels=[0, 1, 2, None], kind=value)
    spec = save(tmp_path / "data", train=train, test=table(range(4), kind=value))
    refused(lambda: open_dataset(spec), "train row 3", "label -1", "0 to 2")


@pytest.mark.parametrize(("kind", "label"), [("int64", 1_000_000), ("uint64", 1 << 62)])
def test_a_label_that_is_no_class_is_refused(kind, label: int, tmp_path: Path, refused) -> None:
    value = datasets.Value(kind)
    wild = table(range(4), labels=[0, 1, label, 0], kind=value)
    spec = save(tmp_path / "data", train=wild, test=table(range(4), kind=value))
    refused(lambda: open_dataset(spec), "train row 2", f"label {label}", "`label`", "0 to 999,999")
    spec = save(tmp_path / "other", train=table(range(4), kind=value), test=wild)
    refused(lambda: open_dataset(spec), "test row 2", f"label {label}")
    save(tmp_path / "other", test=table(range(4), kind=value), validation=wild)
    assert open_dataset(spec).count("test") == 4  # a split that is not used may have any labels


def test_several_columns_must_be_named(tmp_path: Path, refused) -> None:
    more = {"coarse_label": datasets.ClassLabel(names=["a", "b"])}
    splits = {"train": table(range(8), **more), "test": table(range(8, 12), **more)}
    spec = save(tmp_path / "data", **splits)
    refused(lambda: open_dataset(spec), "label, coarse_label all hold labels", f"{spec}:label")
    assert open_dataset(f"{spec}:coarse_label").classes == ("a", "b")
    assert open_dataset(f"{spec}:img:label").classes == ("cat", "dog", "emu")
    refused(lambda: open_dataset(f"{spec}:lable"), "column `lable`", "img, label, coarse_label")


def test_columns_must_be_there(tmp_path: Path, refused) -> None:
    bare = datasets.Dataset.from_dict({"text": ["x"], "label": [0]})
    spec = save(tmp_path / "data", train=bare, test=bare)
    refused(lambda: open_dataset(spec), spec, "no column of images")


@pytest.mark.parametrize(("label", "found"), [(-1, "-1"), (None, "-1")])
def test_labels_out_of_range_are_refused(label, found: str, tmp_path: Path, refused) -> None:
    train = table(range(4), labels=[0, 1, label, 0])
    spec = save(tmp_path / "data", train=train, test=table(range(4)))
    refused(lambda: open_dataset(spec), "train row 2", f"label {found}", "0 to 2")


def test_splits_must_be_there(tmp_path: Path, refused) -> None:
    spec = save(tmp_path / "data", train=table(range(4)))
    refused(lambda: open_dataset(spec), "has splits train", "expected train, and test or")


def test_image_size_follows_the_rule_of_folders(tmp_path: Path, refused) -> None:
    cells = {"img": [{"bytes": encoded(0, (40, 30)), "path": None}], "label": [0]}
    odd = datasets.Dataset.from_dict(cells, features=table(range(1)).features)
    spec = save(tmp_path / "data", train=table(range(4)), test=odd)
    refused(lambda: open_dataset(spec), "test row 0", "40x30", "--image-size")
    assert open_dataset(spec, 16).read("test", 0, 1).images_NHWC.shape == (1, 16, 16, 3)


def test_spoilt_images_are_named(tmp_path: Path, refused) -> None:
    cells = {"img": [{"bytes": encoded(0)[:-900], "path": None}, None], "label": [0, 0]}
    bad = datasets.Dataset.from_dict(cells, features=table(range(1)).features)
    spec = save(tmp_path / "data", train=table(range(4)), test=bad)
    refused(lambda: open_dataset(spec), "test row 1", "has no image")
    spec = save(tmp_path / "other", train=table(range(4)), test=bad.select([0]))
    refused(lambda: open_dataset(spec).read("test", 0, 1), "test row 0", "not a readable image")


def test_identity_is_content_and_read_once(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    real = huggingface._cells
    monkeypatch.setattr(huggingface, "_cells", lambda rows: passes.append(1) or real(rows))
    first = open_dataset(spec).identity
    assert open_dataset(spec).identity == first
    assert len(passes) == 2
    other = save(tmp_path / "other", train=table(range(8)), test=table(range(8, 12)))
    assert open_dataset(other).identity == first
    other = save(tmp_path / "third", train=table(range(1, 9)), test=table(range(8, 12)))
    assert open_dataset(other).identity != first
    assert open_dataset(spec, 16).identity != first


def test_images_that_are_files_count_by_content(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            (tmp_path / "data" / split / name / "0.png").write_bytes(encoded(0))
    spec = f"hf:{tmp_path / 'data'}"
    first = open_dataset(spec)
    assert first.classes == ("cat", "dog")
    assert np.array_equal(first.read("test", 1, 2).images_NHWC[0], PIXELS_NHWC[0])
    (tmp_path / "data/test/dog/0.png").write_bytes(encoded(1))
    assert open_dataset(spec).identity != first.identity


def test_without_the_library_the_command_is_named(
    spec: str, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(lambda: open_dataset(spec), spec, "pip install '.[hf]'")


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, refused) -> None:
    refused(lambda: open_dataset("hf:"), "write hf:NAME")
    (tmp_path / "empty").mkdir()
    refused(lambda: open_dataset(f"hf:{tmp_path / 'empty'}"), "cannot be loaded", "the network")


def test_without_network_one_line(monkeypatch: pytest.MonkeyPatch, refused) -> None:
    def offline(name: str) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused(lambda: open_dataset("hf:a/b"), "hf:a/b", "Couldn't reach", "HF_HUB_OFFLINE=1")


def test_splits_that_are_not_used_are_named(tmp_path: Path, capsys) -> None:
    unlabelled = table(range(4), labels=[-1] * 4)
    spec = save(
        tmp_path / "data",
        train=table(range(8)),
        test=unlabelled,
        validation=table(range(8, 12)),
    )
    open_dataset(spec)
    err = capsys.readouterr().err
    assert f"dataset {spec}: rows of split test left out: 4 (first `row 0`)" in err
