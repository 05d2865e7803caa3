"""Class prompts and the embeddings that teachers make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.build import main
from shards.building.build import build
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.teachers import open_teacher
from shards.teachers.prompts import (
    CIFAR,
    GENERIC,
    TEMPLATES,
    class_embeddings,
    load_templates,
    pack_floats,
    templates_for,
    unpack_floats,
)
from shards.verify import verify
from tests.shards.foreign import samples, write_tar


def test_every_data_set_has_prompts_with_one_place_for_the_class() -> None:
    assert len(CIFAR) == len(set(CIFAR)) == 18
    assert {"a photo of a {}.", "a blurry photo of the {}.", "a photo of a small {}."} < set(CIFAR)
    for templates in (*TEMPLATES.values(), GENERIC):
        assert all(text.count("{}") == 1 for text in templates)
    assert templates_for("cifar100") == CIFAR
    assert templates_for("folder:x") == GENERIC


def test_prompts_of_a_file_are_checked_by_line(tmp_path: Path, refused) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a {}\n\n  the {} \na {}\n")
    assert load_templates(str(file)) == ("a {}", "the {}")
    for text, part in (
        ("a {}\na photo\n", "line 2"),
        ("{} {}\n", "line 1"),
        ("{0}\n", "line 1"),
        ("\n", "no prompt"),
    ):
        file.write_text(text)
        refused(lambda: load_templates(str(file)), str(file), part, "{}")
    file.write_bytes(b"\xff {}")
    refused(lambda: load_templates(str(file)), str(file), "UTF-8")


def test_the_mean_over_prompts_of_unit_vectors_is_unit() -> None:
    teacher = open_teacher("embedded")
    found = class_embeddings(teacher, ("one", "two_by"), ("a {}", "the {}."))
    for row, name in zip(found, ("one", "two by"), strict=True):
        texts = teacher.embed_text([f"a {name}", f"the {name}."]).double().numpy()
        mean = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).mean(axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_bank_holds_class_embeddings_that_classify_its_images(bank: Path) -> None:
    manifest = load_manifest(str(bank))
    (packed,) = manifest.class_embeddings
    assert packed is not None
    class_CD = unpack_floats(packed.shape, packed.float32, "x")
    split = load_splits(str(bank), manifest, "train", ("clean",))["clean"]
    predicted = (split.embedding_NVD[:, 0].astype(np.float32) @ class_CD.T).argmax(axis=1)
    assert (predicted == split.labels_N).mean() > 0.95
    assert manifest.plan.templates == TEMPLATES["digits"]
    assert manifest.plan.dataset.classes == open_dataset("digits").classes


def test_packed_floats_come_back_and_damage_is_refused(refused) -> None:
    array = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    packed = pack_floats(array)
    assert np.array_equal(unpack_floats(packed["shape"], packed["float32"], "x"), array)
    for shape, text in (
        ((3, 6), packed["float32"]),
        ((1 << 40, 5), packed["float32"]),
        ((0, 5), ""),
        ((3, 5), packed["float32"][:-4]),
        ((3, 5), "!" * len(packed["float32"])),
    ):
        refused(lambda s=shape, t=text: unpack_floats(s, t, "m.json"), "m.json", "float32")
    array[1, 2] = np.nan
    packed = pack_floats(array)
    refused(lambda: unpack_floats(packed["shape"], packed["float32"], "m.json"), "finite")


@pytest.mark.thorough
def test_prompts_of_a_file_through_the_commands(tmp_path: Path, capsys) -> None:
    """Class embeddings are of the file's prompts, which the manifest holds; images' are not."""
    file = tmp_path / "prompts.txt"
    file.write_text("a scan of the digit {}\n\nthe {} on a cheque\n")
    small = ("--train-samples", "20", "--test-samples", "10", "--device", "cpu")
    common = ("--dataset", "digits", "--teacher", "embedded", *small)
    manifests = []
    for name, more in (("own", ("--templates", str(file))), ("usual", ())):
        with pytest.raises(SystemExit) as ended:
            main([*common, *more, "--out", str(tmp_path / name)])
        assert not ended.value.code
        assert verify(str(tmp_path / name)).good
        manifests.append(load_manifest(str(tmp_path / name)))
    own, usual = manifests
    assert own.plan.templates == ("a scan of the digit {}", "the {} on a cheque")
    assert usual.plan.templates == templates_for("digits")
    teacher, classes = open_teacher("embedded"), own.plan.dataset.classes
    for manifest in manifests:
        (packed,) = manifest.class_embeddings
        found = unpack_floats(packed.shape, packed.float32, "manifest")
        expected = class_embeddings(teacher, classes, manifest.plan.templates)
        assert np.allclose(found, expected, atol=1e-6)
    assert own.class_embeddings != usual.class_embeddings
    assert own.shards == usual.shards
    capsys.readouterr()
    file.write_text("a {} and a {}\n")
    with pytest.raises(SystemExit) as ended:
        main([*common, "--templates", str(file), "--out", str(tmp_path / "bad")])
    assert ended.value.code == 2
    assert f"{file}: line 1" in capsys.readouterr().err


@pytest.mark.parametrize("names", [None, "0\n1\n", "cat\ndog\n"])
def test_numbers_are_no_class_names(names: str | None, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / f"{split}-0.tar", samples(0, 4, lambda row: row % 2))
    if names:
        (tmp_path / "classnames.txt").write_text(names)
    out, spec = str(tmp_path / "bank"), f"wds:{tmp_path}/{{split}}-*.tar"
    (packed,) = build(Request(dataset=spec, teachers=("embedded",)), out).class_embeddings
    assert (packed is not None) == (names == "cat\ndog\n")
    assert verify(out, live=4).good
