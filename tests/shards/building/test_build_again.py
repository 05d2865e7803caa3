"""The same command again, where something is not as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.building.build import build
from shards.building.request import Request
from shards.support import lock
from shards.teachers import open_teacher
from sweep.planning.banks import plan_banks
from tests.shards.foreign import samples, write_tar
from trainers.canonical import make_config

TIMM = "test_vit.r160_in1k"


def weights(file: Path, seed: int) -> None:
    """A checkpoint of timm's smallest vision transformer, in place."""
    import timm

    torch.manual_seed(seed)
    torch.save(timm.create_model(TIMM).state_dict(), file)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights(tmp_path / "own.pt", 0)
    return tmp_path / "own.pt"


def test_a_finished_bank_of_a_checkpoint_that_was_replaced_is_refused(
    checkpoint: Path, tmp_path: Path, refused, monkeypatch
) -> None:
    config = make_config(
        {"dataset": "digits", "teacher": f"timm:{TIMM}:{checkpoint}", "student": "width:1"}
        | {"train_samples": 70, "test_samples": 20, "test_arms": []}
    )
    _, (job,) = plan_banks([config], str(tmp_path))
    made = build(job.request, job.location)

    def again() -> None:
        assert build(job.request, job.location) == made
        assert plan_banks([config], str(tmp_path)) == ({config.identity: job.location}, [])

    with monkeypatch.context() as patch:
        patch.setattr("timm.create_model", lambda *a, **k: pytest.fail("loaded again"))
        again()
    checkpoint.write_bytes(checkpoint.read_bytes())  # touched: loaded once, and the same
    again()
    weights(checkpoint, 1)
    now = open_teacher(config.teacher).weights_sha256
    parts = (job.location, "weights_sha256", made.plan.teachers[0].weights_sha256[:16], now[:16])
    refused(lambda: build(job.request, job.location), *parts)
    refused(lambda: plan_banks([config], str(tmp_path)), *parts)
    checkpoint.unlink()  # nothing to compare with: what was computed stays good
    again()


def folder_of_images(root: Path) -> str:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return f"folder:{root}"


def shards_of_images(root: Path) -> str:
    for split, first in (("train", 0), ("test", 9)):
        write_tar(root / f"{split}-0.tar", samples(first, 6))
    return f"wds:{root}/{{split}}-*.tar"


@pytest.mark.parametrize("make", [folder_of_images, shards_of_images])
@pytest.mark.parametrize("size", [None, 16])
def test_a_finished_bank_of_images_that_changed_is_refused(make, size, tmp_path, refused) -> None:
    spec, out = make(tmp_path / "images"), str(tmp_path / "bank")
    request = Request(dataset=spec, teachers=("embedded",), image_size=size, test_samples=3)
    made = build(request, out)
    assert build(request, out) == made
    sized = request.model_copy(update={"image_size": made.plan.dataset.image_size})
    assert build(sized, out) == made
    (tmp_path / "images").rename(tmp_path / "away")
    assert build(request, out) == made
    (tmp_path / "away").rename(tmp_path / "images")
    if make is folder_of_images:
        shutil.copy(tmp_path / "images/train/a/0.png", tmp_path / "images/train/a/1.png")
    else:
        write_tar(tmp_path / "images/train-0.tar", samples(1, 6))
    parts = (out, "identity", made.plan.dataset.identity[:16], "now give")
    assert made.plan.dataset.identity not in refused(lambda: build(request, out), *parts)


@pytest.mark.parametrize("name", ["plan.json", "shards.json"])
def test_damaged_notes_of_an_unfinished_build_are_named(
    name: str, bank: Path, copy: Path, request_60: Request, refused
) -> None:
    records = json.loads((copy / "manifest.json").read_text())["shards"]
    (copy / "shards.json").write_text(json.dumps(records))
    (copy / "manifest.json").unlink()
    other = "holds other shards" if name == "plan.json" else "delete it"
    damaged = dict.fromkeys(("", '{"a": ', "[" * 100000, "ÿ"), "delete it")
    for text, part in (damaged | {'[{"name": "x"}]': other}).items():
        (copy / name).write_text(text, encoding="latin-1")
        refused(lambda: build(request_60, str(copy)), str(copy), part)
    (copy / name).unlink()
    build(request_60, str(copy))
    for file in bank.glob("*.tar"):
        assert (copy / file.name).read_bytes() == file.read_bytes()


def test_shards_without_their_plan_are_not_taken_for_those_of_another(
    copy: Path, bank: Path, request_60: Request, monkeypatch
) -> None:
    """Killed between the new plan and its first shard, after the old plan was deleted."""
    records = json.loads((copy / "manifest.json").read_text())["shards"]
    (copy / "shards.json").write_text(json.dumps(records))
    for name in ("manifest.json", "plan.json"):
        (copy / name).unlink()
    other = request_60.model_copy(update={"seed": 5})
    with monkeypatch.context() as patch:
        patch.setattr("shards.building.build._compute", lambda *arguments: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            build(other, str(copy))
    build(other, str(copy))
    file = "train-000000.tar"
    assert (copy / file).read_bytes() != (bank / file).read_bytes()


def test_what_another_build_finished_before_the_lock_was_had_is_not_computed_again(
    bank: Path, tmp_path: Path, request_60: Request, monkeypatch
) -> None:
    out, real = tmp_path / "bank", lock.exclusive

    def late(folder: str, what: str):
        shutil.copytree(bank, out)
        return real(folder, what)

    monkeypatch.setattr(lock, "exclusive", late)
    manifest = build(request_60, str(out), "cpu", lambda *arguments: pytest.fail("computed again"))
    assert manifest.identity in (bank / "manifest.json").read_text()


def test_a_build_begun_on_a_gpu_says_so_where_there_is_none(
    copy: Path, request_60: Request, refused
) -> None:
    (copy / "manifest.json").unlink()
    plan = json.loads((copy / "plan.json").read_text())
    plan["device"], plan["teachers"][0]["precision"] = "cuda", "fp16"
    (copy / "plan.json").write_text(json.dumps(plan))
    refused(lambda: build(request_60, str(copy)), str(copy), "cuda", "cpu")
