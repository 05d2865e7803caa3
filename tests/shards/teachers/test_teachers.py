from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from shards.teachers import (
    TEACHERS,
    check_teacher,
    embedding_dim,
    input_size,
    open_teacher,
    weights_sha256,
)
from shards.teachers.frozen import FrozenTeacher
from shards.teachers.preprocess import Preprocess

SMALL = "ViT-S-32-alt"  # the smallest model that open_clip registers
TINY = "test_vit.r160_in1k"
SPECS = {
    "embedded": "embedded",
    "open_clip": f"open_clip:{SMALL}:none",
    "timm": f"timm:{TINY}:none",
}


@pytest.fixture(scope="module")
def teachers() -> dict[str, Any]:
    return {name: open_teacher(spec) for name, spec in SPECS.items()}


def test_every_teacher_is_under_contract() -> None:
    assert set(SPECS) == set(TEACHERS)


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_contract_of_a_teacher(name: str, teachers, refused) -> None:
    teacher = teachers[name]
    images = torch.arange(4 * 3 * 32 * 32).reshape(4, 3, 32, 32).remainder(251).to(torch.uint8)
    inputs = teacher.preprocess(images)
    out = teacher.embed(inputs)
    assert teacher.spec == SPECS[name]
    assert inputs.shape[-1] == teacher.preprocess.size == input_size(teacher.spec)
    assert out.shape == (4, teacher.dim)
    assert teacher.dim == embedding_dim(teacher.spec)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert torch.allclose(teacher.embed(inputs[2:3])[0], out[2], rtol=1e-3, atol=1e-4)
    texts = ["a digit", "a photo of a dog"]
    if teacher.has_text:
        assert teacher.embed_text(texts).shape == (2, teacher.dim)
    else:
        refused(lambda: teacher.embed_text(texts), teacher.spec, "no text tower")
    assert teacher.parameters > 0
    assert len(teacher.weights_sha256) == 64


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_opening_twice_gives_the_same_weights_and_leaves_the_generator(name: str, teachers) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = open_teacher(SPECS[name])
    assert torch.equal(torch.rand(3), expected)
    assert again.weights_sha256 == teachers[name].weights_sha256


def test_random_weights_are_announced(capsys: pytest.CaptureFixture) -> None:
    open_teacher(SPECS["open_clip"])
    assert "RANDOM weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("embeded", ("unknown teacher `embeded`", "did you mean `embedded`")),
        ("embedded:x", ("takes no argument",)),
        ("open_clip", ("NAME:TAG",)),
        ("open_clip:ViT-B-32", ("NAME:TAG",)),
        ("open_clip:ViT-B32:openai", ("unknown model `ViT-B32`", "did you mean `ViT-B-32`? ")),
        ("open_clip:zzzzzzzzz:none", ("unknown model", "list_models()")),
        ("open_clip:ViT-B-32:opena", ("neither a file nor a tag", "did you mean `openai`")),
        ("open_clip:ViT-B-32:/no/such/file.pt", ("/no/such/file.pt", "neither a file")),
        ("timm", ("timm:NAME", "dinov2")),
        ("timm:resnet_18:none", ("unknown model `resnet_18`", "did you mean `resnet")),
        ("timm:vit_small_patch14_dinov2.lvd", ("did you mean `vit_small_patch14_dinov2.lvd142m`",)),
        (f"timm:{TINY}:/no/such/file.pt", ("/no/such/file.pt", "neither a file")),
    ],
)
def test_bad_specs_name_what_would_be_right(spec: str, parts, refused) -> None:
    refused(lambda: check_teacher(spec), *parts)
    refused(lambda: open_teacher(spec), *parts)


def test_check_says_what_would_be_downloaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = check_teacher("open_clip:ViT-B-32:openai")
    assert text
    assert "ViT-B-32 (openai)" in text
    assert "timm/vit_base_patch32_clip_224.openai" in text
    assert check_teacher("embedded") is None
    assert check_teacher("open_clip:ViT-B-32:none") is None


def test_dinov2_is_a_name_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = "timm:vit_small_patch14_dinov2.lvd142m"
    assert "timm/vit_small_patch14_dinov2.lvd142m" in str(check_teacher(spec))
    assert (embedding_dim(spec), input_size(spec)) == (384, 518)
    assert check_teacher(f"timm:{TINY}:none") is None


def test_crop_fractions_become_a_larger_resize(teachers) -> None:
    config = timm.data.resolve_model_data_config(teachers["timm"]._model)
    preprocess = teachers["timm"].preprocess
    assert (preprocess.size, preprocess.resize) == (160, int(160 / config["crop_pct"]))


def test_a_model_that_pads_its_input_or_takes_no_squares_is_refused(refused) -> None:
    refused(lambda: input_size("timm:volo_d4_448.sail_in1k"), "389 pixels to 448", "crop_pct")
    refused(lambda: input_size("timm:vit_5b_patch16_sapiens2.fb"), "1024, 768", "not square")


def test_without_a_network_timm_says_what_is_missing(tmp_path, monkeypatch, refused) -> None:
    def create(*_: object, **named: object) -> None:
        assert named["pretrained"] is True
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm, "create_model", create)
    parts = (f"hub repository timm/{TINY}", "no network here", f"timm:{TINY}:PATH")
    refused(lambda: open_teacher(f"timm:{TINY}"), *parts)


def test_a_model_without_one_vector_an_image_is_refused(refused) -> None:
    flat = torch.nn.Conv2d(3, 2, 3)
    preprocess = Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1))
    refused(lambda: FrozenTeacher("x", flat, preprocess, "cpu"), "one vector", "pooled")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_local_timm_checkpoint_gives_its_own_weights(suffix: str, tmp_path: Path) -> None:
    model = timm.create_model(TINY, pretrained=False)  # with its classifier
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": model.state_dict()}, file)
    else:
        save_file(model.state_dict(), file)
    loaded = open_teacher(f"timm:{TINY}:{file}")
    expected = timm.create_model(TINY, pretrained=False, num_classes=0)
    expected.load_state_dict(model.state_dict(), strict=False)
    assert loaded.weights_sha256 == weights_sha256(expected.state_dict())


def test_a_timm_checkpoint_of_another_model_or_with_code_is_refused(tmp_path, refused) -> None:
    other = tmp_path / "other.pt"
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), other)
    refused(lambda: open_teacher(f"timm:{TINY}:{other}"), str(other))
    torch.save({"x": Touch(tmp_path / "touched")}, tmp_path / "evil.pt")
    refused(lambda: open_teacher(f"timm:{TINY}:{tmp_path / 'evil.pt'}"), "evil.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_a_cast_keeps_the_fingerprint_and_nearly_the_direction(name: str, teachers, refused):
    teacher = open_teacher(SPECS[name], precision="bf16")
    assert teacher.precision == "bf16"
    assert teacher.weights_sha256 == teachers[name].weights_sha256
    inputs = teacher.preprocess(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    found, exact = teacher.embed(inputs), teachers[name].embed(inputs)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, exact).min() > 0.99
    refused(lambda: open_teacher(SPECS[name], precision="fp16"), "fp16", "GPU")


def test_widths_and_sizes_come_from_configuration(refused) -> None:
    assert embedding_dim("open_clip:ViT-B-32:openai") == 512
    assert input_size("open_clip:ViT-L-14-336:openai") == 336
    for call in (embedding_dim, input_size):
        refused(lambda call=call: call("embeded"), "unknown teacher")


def test_a_local_checkpoint_gives_its_own_weights(tmp_path: Path, teachers) -> None:
    state = {n: t.clone() for n, t in teachers["open_clip"]._model.state_dict().items()}
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    loaded = open_teacher(f"open_clip:{SMALL}:{file}")
    assert loaded.weights_sha256 == teachers["open_clip"].weights_sha256 == weights_sha256(state)
    state["logit_scale"] += 1
    torch.save(state, file)
    assert open_teacher(f"open_clip:{SMALL}:{file}").weights_sha256 == weights_sha256(state)


class Touch:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, refused) -> None:
    file = tmp_path / "evil.pt"
    torch.save({"visual.proj": Touch(tmp_path / "touched")}, file)
    refused(lambda: open_teacher(f"open_clip:{SMALL}:{file}"), str(file), "checkpoint")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(suffix: str, tmp_path: Path, refused) -> None:
    file = tmp_path / f"junk.{suffix}"
    file.write_bytes(b"junk" * 100)
    refused(lambda: open_teacher(f"open_clip:{SMALL}:{file}"), str(file))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, teachers, refused) -> None:
    file = tmp_path / "other.pt"
    torch.save(teachers["embedded"]._model.state_dict(), file)
    refused(lambda: open_teacher(f"open_clip:{SMALL}:{file}"), str(file))


@pytest.mark.parametrize(
    ("name", "tag", "quick"),
    [("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False)],
)
def test_quick_gelu_follows_the_tag(name, tag, quick, monkeypatch, refused) -> None:
    asked: dict[str, Any] = {}

    def create(*arguments: object, **named: object) -> None:
        asked.update(named)
        raise OSError("no network here")

    monkeypatch.setattr(open_clip, "create_model", create)
    refused(
        lambda: open_teacher(f"open_clip:{name}:{tag}"),
        "no network",
        f"open_clip:{name}:{tag}@PATH",
    )
    assert asked["force_quick_gelu"] is quick
    assert asked["weights_only"] is True
    assert asked["pretrained"] == tag


def test_fingerprint_sees_names_shapes_dtypes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(6.0), "c": torch.tensor(1)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)},
        {"a": torch.arange(6.0).double(), "b": torch.tensor(1)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.tensor(1)},
    ]
    assert weights_sha256(dict(reversed(base.items()))) == weights_sha256(base)
    assert len({weights_sha256(state) for state in [base, *others]}) == 5
