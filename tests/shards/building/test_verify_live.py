"""`shards.verify --live`: what is stored is what the teacher says of what was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.bank.manifest import Manifest
from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.building.request import Request
from shards.teachers import open_teacher
from shards.teachers.prompts import pack_floats, unpack_floats
from shards.verify import describe, main, verify

ARMS = (
    "crop_flip:4",
    "noise:0.1",
    "noise_denoise:0.1",
    "noise_normalised:0.1",
    "crop_flip_noise:0.05",
    "color_jitter:0.4",
    "random_resized_crop:0.25",
)
OTHER = "timm:test_vit.r160_in1k:none"


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every arm, two teachers of different size."""
    out = tmp_path_factory.mktemp("rich") / "bank"
    request = Request(
        dataset="digits", teachers=("embedded", OTHER), arms=ARMS, views=2, test_arms=("noise",),
        train_samples=30, test_samples=10, shard_samples=20,
    )  # fmt: skip
    build(request, str(out))
    return out


def test_every_view_of_every_arm_and_teacher_replays(rich: Path) -> None:
    verdict = verify(str(rich), live=40)
    assert verdict.good, verdict.failures
    assert "40 samples" in verdict.notes["live"]
    views = (30 * (1 + 2 * len(ARMS)) + 10 * 2) * 2
    assert f"{views} views" in verdict.notes["live"]


def test_a_bank_in_bf16_replays_in_bf16_and_in_no_other_precision(tmp_path: Path) -> None:
    request = Request(
        dataset="digits", teachers=("embedded",), precision="bf16", train_samples=20,
        test_samples=10,
    )  # fmt: skip
    build(request, str(tmp_path))
    assert verify(str(tmp_path), live=30).good
    manifest = load_manifest(str(tmp_path))
    teacher = manifest.plan.teachers[0].model_copy(update={"precision": "fp32"})
    plan = manifest.plan.model_copy(update={"teachers": (teacher,)})
    other = manifest.model_copy(update={"plan": plan, "identity": plan.identity}).sealed()
    (tmp_path / "manifest.json").write_text(other.model_dump_json())
    assert verify(str(tmp_path), live=30).failures["live"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.thorough
def test_few_samples_of_many_shards_replay_in_batches_smaller_than_the_builds(
    precision, tmp_path: Path
) -> None:
    """Alone, in small batches and in the build's own, by one thread and by two."""
    request = Request(
        dataset="digits", teachers=("embedded", "timm:test_vit2.r160_in1k:none"), arms=("noise",),
        views=2, precision=precision, train_samples=100, test_samples=20, shard_samples=40,
    )  # fmt: skip
    build(request, str(tmp_path))
    least = []
    try:
        for threads, live in ((1, 1), (1, 7), (2, 7), (1, 30), (2, 120)):
            torch.set_num_threads(threads)
            verdict = verify(str(tmp_path), live=live)
            assert verdict.good, verdict.failures
            assert f"{live} samples" in verdict.notes["live"]
            least.append(float(verdict.notes["live"].split()[-1]))
    finally:
        torch.set_num_threads(1)
    assert min(least) > 1 - 1e-6, least


def test_some_samples_are_some_of_the_bank(rich: Path) -> None:
    assert "7 samples" in verify(str(rich), live=7).notes["live"]


def test_the_teacher_of_noise_denoise_was_given_the_clean_image(rich: Path) -> None:
    from shards.bank.splits import load_splits

    splits = load_splits(str(rich), load_manifest(str(rich)), "train", ("clean", ARMS[2]))
    clean, denoised = splits["clean"], splits[ARMS[2]]
    assert np.array_equal(denoised.embedding_NVD, np.repeat(clean.embedding_NVD, 2, axis=1))
    assert (denoised.params_NVP[:, 0] != denoised.params_NVP[:, 1]).all()


def test_a_mirrored_view_with_a_valid_hash_fails(copy, rewrite, capsys) -> None:
    """The embedding of the mirrored image in the place of the image's own."""
    keys: list[str] = []

    def mirror(arrays: dict, names: list) -> None:
        teacher = open_teacher("embedded")
        images = torch.from_numpy(arrays["image"][3:4].copy()).permute(0, 3, 1, 2).flip(3)
        raw = teacher.embed(teacher.preprocess(images))[0].numpy()
        arrays["embedding.0"][3, 0] = raw / np.linalg.norm(raw)
        keys.append(names[3])

    rewrite("train-000000.tar", mirror)
    assert verify(str(copy)).good
    verdict = verify(str(copy), live=80)
    (line,) = verdict.failures["live"]
    assert f"sample `{keys[0]}`, teacher embedded, arm clean, view 0: cosine 0." in line
    with pytest.raises(SystemExit) as ended:
        main([str(copy), "--live", "80"])
    assert ended.value.code == 1
    assert "live" in capsys.readouterr().out


def test_other_weights_under_the_same_name_are_refused(copy: Path, refused) -> None:
    text = json.loads((copy / "manifest.json").read_text())
    text["plan"]["teachers"][0]["weights_sha256"] = "0" * 64
    manifest = Manifest.model_validate_json(json.dumps(text))
    manifest = manifest.model_copy(update={"identity": manifest.plan.identity}).sealed()
    (copy / "manifest.json").write_text(manifest.model_dump_json())
    refused(lambda: verify(str(copy), live=1), "embedded", "sha256", "0000")
    refused(lambda: verify(str(copy), live=1, device="tpu9"), "tpu9")


def test_a_text_tower_gives_class_embeddings_and_its_lack_gives_none(rich: Path) -> None:
    first, second = load_manifest(str(rich)).class_embeddings
    assert first is not None
    assert first.shape == (10, 512)
    assert second is None


def reseal(folder: Path, **changes: object) -> None:
    """Other fields in the manifest, with a valid checksum."""
    text = json.loads((folder / "manifest.json").read_text()) | changes
    manifest = Manifest.model_validate_json(json.dumps(text))
    manifest = manifest.model_copy(update={"identity": manifest.plan.identity}).sealed()
    (folder / "manifest.json").write_text(manifest.to_json())


def texts(folder: Path) -> np.ndarray:
    (packed,) = load_manifest(str(folder)).class_embeddings
    assert packed is not None
    return unpack_floats(packed.shape, packed.float32, "").copy()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda a: a[:9], "(9, 512), expected (10, 512)"),
        (lambda a: a[:, :9], "(10, 9), expected (10, 512)"),
        (lambda a: np.where(np.arange(10)[:, None] == 3, np.nan, a), "not finite"),
        (lambda a: np.where(np.arange(10)[:, None] == 3, 0, a), "class `three` has no unit vector"),
        (lambda a: 2 * a, "class `zero` has no unit vector"),
    ],
)
def test_class_embeddings_that_are_no_unit_vectors_fail(spoil, part: str, copy: Path) -> None:
    spoilt = pack_floats(spoil(texts(copy)).astype(np.float32))
    reseal(copy, class_embeddings=[spoilt])
    (line,) = verify(str(copy)).failures["texts"]
    assert part in line
    reseal(copy, class_embeddings=[])
    verdict = verify(str(copy))
    assert verdict.failures["texts"] == ["class embeddings of 0 teachers for 1; build it again"]
    describe(verdict)


def test_class_embeddings_of_other_prompts_fail_live(copy: Path) -> None:
    spoilt = texts(copy)
    spoilt[[2, 5]] = spoilt[[5, 2]]
    reseal(copy, class_embeddings=[pack_floats(spoilt)])
    assert verify(str(copy)).good
    lines = verify(str(copy), live=1).failures["live"]
    assert [line.partition(",")[0] for line in lines] == ["class `two`", "class `five`"]
    reseal(copy, class_embeddings=[None])
    (line,) = verify(str(copy), live=1).failures["live"]
    assert line.startswith("teacher embedded has a text tower")


def test_other_images_under_the_same_name_fail_live(copy: Path) -> None:
    plan = json.loads((copy / "manifest.json").read_text())["plan"]
    plan["dataset"]["identity"] = "0" * 64
    reseal(copy, plan=plan)
    assert verify(str(copy)).good
    (line,) = verify(str(copy), live=1).failures["data set"]
    assert "data set digits is 0000000000000000..., the images now give" in line
    plan["dataset"]["spec"] = "folder:/nowhere"
    reseal(copy, plan=plan)
    verdict = verify(str(copy), live=1)
    assert verdict.good
    assert verdict.unchecked == {"data set": "folder:/nowhere is not available on this machine"}


def test_nothing_replayed_is_no_success(copy: Path) -> None:
    for file in copy.glob("*.tar"):
        file.write_bytes(file.read_bytes()[:-1])
    verdict = verify(str(copy), live=30)
    assert len(verdict.failures["shards"]) == 4
    (line,) = verdict.failures["live"]
    assert line.startswith("0 of 30 samples were embedded again")


def test_a_teacher_that_says_nothing_is_the_least_cosine(copy: Path, monkeypatch) -> None:
    class Mute:
        def __init__(self) -> None:
            self._inner = open_teacher("embedded")

        def __getattr__(self, name: str):
            return getattr(self._inner, name)

        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return self._inner.embed(images) * (torch.arange(len(images)) != 1)[:, None] / 0.0

    monkeypatch.setattr("shards.building.replay.open_teacher", lambda *arguments: Mute())
    verdict = verify(str(copy), live=80)
    assert "least cosine nan" in verdict.notes["live"]
    assert verdict.failures["live"][0].endswith("cosine nan")
