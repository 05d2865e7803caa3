from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.arms import make_arm
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.bank.writer import difference
from shards.building.build import build
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.teachers import open_teacher
from shards.teachers.precision import Choice
from shards.teachers.preprocess import CPU_BATCH
from shards.verify import verify

HERE = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file; of the manifest, all but how it came about."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name == "manifest.json":
            value = json.loads(file.read_text())
            del value["created"], value["checksum"]
            found[file.name] = json.dumps(value)
        elif file.name != ".lock":
            found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_files_of_a_finished_bank(bank: Path) -> None:
    shards = [f"train-00000{i}.tar" for i in range(3)]
    assert sorted(contents(bank)) == ["manifest.json", "plan.json", "test-000000.tar", *shards]
    manifest = verify(str(bank)).manifest
    assert [record.samples for record in manifest.shards] == [20, 25, 25, 10]
    assert manifest.plan.dataset.counts == {"train": 60, "test": 20}
    assert torch.__version__.startswith(manifest.created["torch"])


def test_the_same_command_again_does_nothing(bank: Path, request_60: Request) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in bank.iterdir()}
    manifest = build(request_60, str(bank))
    assert {file.name: file.stat().st_mtime_ns for file in bank.iterdir()} == before
    assert manifest == load_manifest(str(bank))


def test_building_elsewhere_gives_the_same_bytes(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        build(request_60, str(tmp_path / "again"))
        assert torch.get_num_threads() != threads
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "again") == contents(bank)


def test_a_build_without_its_last_shard_and_manifest_resumes(
    bank: Path, copy: Path, request_60: Request
) -> None:
    (copy / "manifest.json").unlink()
    (copy / "train-000002.tar").unlink()
    (copy / ".train-000002.tar.123.tmp").write_bytes(b"half")
    build(request_60, str(copy))
    assert contents(copy) == contents(bank)


@pytest.mark.faults
def test_a_killed_build_resumes_to_the_same_bytes(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    code = (
        "import time, sys, shards.bank.writer as w; publish = w.BankWriter.publish\n"
        "def slow(*a): publish(*a); time.sleep(60)\n"
        "w.BankWriter.publish = slow\n"
        "from shards.build import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *request_60.arguments(str(out))],
        cwd=HERE,
        stderr=subprocess.DEVNULL,
    )
    while not (out / "shards.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = out / "train-000000.tar"
    assert sorted(os.listdir(out)) == [".lock", "plan.json", "shards.json", first.name]
    written = first.stat().st_mtime_ns
    build(request_60, str(out))
    assert first.stat().st_mtime_ns == written
    assert contents(out) == contents(bank)


@pytest.mark.faults
def test_a_spoilt_shard_of_an_unfinished_build_is_built_again(
    bank: Path, copy: Path, request_60: Request
) -> None:
    records = json.loads((copy / "manifest.json").read_text())["shards"]
    (copy / "shards.json").write_text(json.dumps(records))
    (copy / "manifest.json").unlink()
    data = bytearray((copy / "train-000001.tar").read_bytes())
    data[9999] ^= 1
    (copy / "train-000001.tar").write_bytes(data)
    build(request_60, str(copy))
    assert contents(copy) == contents(bank)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"seed": 5}, ("seed", "0", "5")),
        ({"views": 3}, ("train arms", "x2", "x3")),
        ({"arms": ("noise:0.2",)}, ("train arms", "noise:0.1", "noise:0.2")),
        ({"train_samples": 61}, ("train_samples", "60", "61")),
        ({"teachers": ("open_clip:ViT-S-32-alt:none",)}, ("teachers", "embedded")),
        ({"precision": "bf16"}, ("precision", "fp32", "bf16")),
        ({"templates": ("a {}",)}, ("templates", "a {}")),
        ({"image_size": 64}, ("image_size", "64")),
    ],
)
def test_a_folder_that_holds_another_bank_is_refused(
    change, parts, bank: Path, request_60: Request, refused
) -> None:
    asked = Request.model_validate(request_60.model_dump() | change)
    refused(lambda: build(asked, str(bank)), str(bank), "another folder", *parts)


def test_a_folder_with_another_unfinished_build_is_refused(
    copy: Path, request_60: Request, refused
) -> None:
    (copy / "manifest.json").unlink()
    asked = request_60.model_copy(update={"seed": 5})
    refused(lambda: build(asked, str(copy)), "seed is 0", "requested 5", "another folder")


def test_a_folder_in_use_is_refused_naming_the_holder(
    copy: Path, request_60: Request, refused
) -> None:
    from shards.support import lock

    (copy / "manifest.json").unlink()
    with lock.exclusive(str(copy), "bank"):
        refused(lambda: build(request_60, str(copy)), f"process {os.getpid()}", "in use")


def test_embeddings_are_unit_vectors_with_positive_norms(bank: Path) -> None:
    manifest = load_manifest(str(bank))
    for split in load_splits(str(bank), manifest, "train", ("clean", "crop_flip:4")).values():
        length = np.linalg.norm(split.embedding_NVD.astype(np.float64), axis=-1)
        assert abs(length - 1).max() < 1e-3
        assert split.norm_NV.min() > 0


def replay(bank: Path, arm_spec: str, change: Callable[[torch.Tensor], torch.Tensor]):
    """Cosine (N, V) of stored embeddings and of what the teacher says again, in other batches."""
    manifest = load_manifest(str(bank))
    split = load_splits(str(bank), manifest, "train", (arm_spec,))[arm_spec]
    arm, teacher = make_arm(arm_spec), open_teacher("embedded")
    images = change(torch.from_numpy(split.images_NHWC).permute(0, 3, 1, 2).contiguous())
    cosines = []
    for view in range(split.params_NVP.shape[1]):
        params = torch.from_numpy(split.params_NVP[:, view].copy())
        inputs = arm.normalised(teacher.preprocess(arm.pixels(images, params)), params)
        raw = torch.cat([teacher.embed(part) for part in inputs.split(7)])
        stored = torch.from_numpy(split.embedding_NVD[:, view]).float()
        cosines.append(torch.nn.functional.cosine_similarity(raw, stored))
    return torch.stack(cosines, dim=1)


@pytest.mark.parametrize("arm", ["clean", "crop_flip:4", "noise:0.1"])
def test_stored_draws_give_the_stored_embeddings_again(arm: str, bank: Path) -> None:
    assert replay(bank, arm, lambda images: images).min() >= 0.99999


def test_a_mirrored_image_does_not_replay(bank: Path) -> None:
    cosines = replay(bank, "crop_flip:4", lambda images: images.flip(3))
    assert (cosines < 0.999).double().mean() > 0.9


def test_bank_holds_the_data_sets_images_under_their_keys(bank: Path) -> None:
    split = load_splits(str(bank), load_manifest(str(bank)), "test", ("clean",))["clean"]
    digits = open_dataset("digits")
    block = digits.read("test", 0, 359)
    where = [block.keys.index(key) for key in split.keys]
    assert np.array_equal(split.images_NHWC, block.images_NHWC[where])
    assert np.array_equal(split.labels_N, block.labels_N[where])


class Deaf:
    """A teacher that says nothing about one image."""

    def __init__(self, value: float) -> None:
        self._inner, self._value = open_teacher("embedded"), value

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        out = self._inner.embed(images).clone()
        out[-1] = self._value
        return out


@pytest.mark.parametrize(
    "value", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.thorough), 0.0]
)
def test_a_teacher_that_says_nothing_about_an_image_stops_the_build(
    value, request_60: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    monkeypatch.setattr(
        "shards.building.embed.open_teacher", lambda spec, device, precision: Deaf(value)
    )
    key = open_dataset("digits", train_samples=60).keys("train")[CPU_BATCH - 1]
    refused(lambda: build(request_60, str(tmp_path)), f"`{key}`", "clean", "norm 0")
    assert not list(tmp_path.glob("*.tar"))


def test_a_device_that_is_not_there_is_refused(request_60: Request, tmp_path, refused) -> None:
    refused(lambda: build(request_60, str(tmp_path / "x"), "tpu9"), "device: `tpu9`", "cpu")
    assert not (tmp_path / "x").exists()


def test_difference_names_the_first_field_that_differs() -> None:
    there = {"a": 1, "b": {"c": [1, {"d": "x"}]}}
    mine = {"a": 1, "b": {"c": [1, {"d": "y"}]}}
    assert difference(there, mine) == 'b.c.1.d is "x", requested "y"'


def test_two_teachers_share_the_images_and_keep_a_column_each(bank: Path, tmp_path: Path) -> None:
    other = "timm:test_vit.r160_in1k:none"
    request = Request(
        dataset="digits", teachers=("embedded", other), train_samples=40, test_samples=10,
        shard_samples=25, templates=("the number {}",),
    )  # fmt: skip
    manifest = build(request, str(tmp_path))
    assert [teacher.spec for teacher in manifest.plan.teachers] == ["embedded", other]
    assert manifest.plan.templates == ("the number {}",)
    for index, teacher in enumerate(manifest.plan.teachers):
        split = load_splits(str(tmp_path), manifest, "train", ("clean",), index)["clean"]
        assert split.embedding_NVD.shape == (40, 1, teacher.dim)
        live = open_teacher(teacher.spec)
        raw = live.embed(
            live.preprocess(torch.from_numpy(split.images_NHWC[:5]).permute(0, 3, 1, 2))
        )
        stored = torch.from_numpy(split.embedding_NVD[:5, 0]).float()
        assert torch.cosine_similarity(raw, stored).min() > 0.99999


def test_a_resumed_build_keeps_the_precision_that_was_chosen(
    copy: Path, request_60: Request, monkeypatch
) -> None:
    chosen = Choice("bf16", 3.0, 0.99999)
    monkeypatch.setattr("shards.building.embed.choose_precision", lambda *arguments: chosen)
    out = copy.parent / "bf16"
    manifest = build(request_60, str(out))
    assert manifest.plan.teachers[0].precision == "bf16"
    assert manifest.identity != load_manifest(str(copy)).identity
    before = contents(out)
    (out / "manifest.json").unlink()
    (out / "train-000001.tar").unlink()
    monkeypatch.setattr(
        "shards.building.embed.choose_precision", lambda *arguments: pytest.fail("again")
    )
    build(request_60, str(out))
    assert contents(out) == before
