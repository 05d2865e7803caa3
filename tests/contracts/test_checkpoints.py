"""A local checkpoint means what its tag means, whatever wraps it, and nothing in it is executed."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip import factory
from safetensors.torch import save_file

from shards.teachers import check_teacher, open_teacher
from shards.teachers.checkpoint import read_checkpoint
from shards.teachers.clip_names import settings_of

PAIRS = sorted(open_clip.list_pretrained())
TEXT_LIBRARY = "transformers"


def needs_text_library(model: str) -> bool:
    text = open_clip.get_model_config(model)["text_cfg"]
    return "hf_model_name" in text or "hf_tokenizer_name" in text


def each_tag() -> list[Any]:
    """All tags; but for the first one of each kind of settings they are `thorough`."""
    seen: set[Any] = set()
    params = []
    for model, tag in PAIRS:
        kind = needs_text_library(model) or str(settings_of(model, tag))
        marks = [pytest.mark.thorough] if kind in seen else []
        params.append(pytest.param(model, tag, id=f"{model}:{tag}", marks=marks))
        seen.add(kind)
    return params


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an open_clip model tiny, and its tags' downloads a file of random weights of it."""

    def shrink(name: str) -> Path:
        config = open_clip.get_model_config(name)
        small = {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
            "text_cfg": {
                "context_length": 8,
                "vocab_size": 49408,
                "width": 64,
                "heads": 1,
                "layers": 1,
            },
            "quick_gelu": config.get("quick_gelu", False),
        }
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, small)
        torch.manual_seed(1)
        model = open_clip.create_model(name, load_weights=False)
        file = tmp_path / "weights.safetensors"
        save_file({n: t.clone().contiguous() for n, t in model.state_dict().items()}, file)
        monkeypatch.setattr(factory, "download_pretrained", lambda *a, **k: str(file))
        return file

    return shrink


def settings(teacher: Any) -> tuple[Any, ...]:
    activation = type(teacher._model.visual.transformer.resblocks[0].mlp.gelu).__name__
    preprocess = teacher.preprocess
    return activation, preprocess.mean, preprocess.std, preprocess.interpolation


@pytest.mark.parametrize(("model", "tag"), each_tag())
def test_a_file_means_what_its_tag_means(model: str, tag: str, tiny) -> None:
    if needs_text_library(model):  # its vocabulary would have to be downloaded, too
        with pytest.raises(ValueError, match=r"pip install 'distilsweep\[transformers\]'"):
            check_teacher(f"open_clip:{model}:{tag}")
        return
    file = tiny(model)
    by_tag = open_teacher(f"open_clip:{model}:{tag}")
    named = open_teacher(f"open_clip:{model}:{tag}@{file}")
    assert settings(named) == settings(by_tag)
    assert named.weights_sha256 == by_tag.weights_sha256
    assert named.tag == tag
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(named.embed(images_BCHW), by_tag.embed(images_BCHW))
    tags = open_clip.list_pretrained_tags_by_model(model)
    if len({settings_of(model, other) for other in tags}) == 1:
        assert settings(open_teacher(f"open_clip:{model}:{file}")) == settings(by_tag)
    else:
        with pytest.raises(ValueError, match=f"name the tag .*open_clip:{model}:.*@PATH"):
            open_teacher(f"open_clip:{model}:{file}")


def test_a_wrong_tag_or_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file nowhere\.pt"):
        check_teacher("open_clip:ViT-B-32:openai@nowhere.pt")
    with pytest.raises(ValueError, match="did you mean"):
        check_teacher("open_clip:ViT-B-32:openia@nowhere.pt")


# ---- wrappers ----


class Holder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def script_archive(state: dict[str, torch.Tensor], file: Path) -> None:
    """A TorchScript archive in half precision with CLIP's three buffers, as OpenAI publishes."""
    root = Holder()
    for name, tensor in state.items():
        at: torch.nn.Module = root
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, Holder())
            at = getattr(at, part)
        value = tensor.half() if tensor.is_floating_point() else tensor
        at.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    torch.jit.script(root).save(str(file))


def tiny_state(model: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return copy.deepcopy(open_clip.create_model(model, load_weights=False).state_dict())


def test_openais_archive_is_opened_with_quickgelu(tiny, tmp_path: Path) -> None:
    tiny("ViT-B-32")
    state = {n: t for n, t in tiny_state("ViT-B-32").items() if n != "attn_mask"}
    script_archive(state, tmp_path / "ViT-B-32.pt")
    teacher = open_teacher(f"open_clip:ViT-B-32:{tmp_path / 'ViT-B-32.pt'}")
    assert settings(teacher)[0] == "QuickGELU"
    assert teacher.tag == "openai"
    loaded = teacher._model.state_dict()
    assert all(torch.equal(loaded[name], t.half().float()) for name, t in state.items())


WRAPPED = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model": lambda s: {"model": s},
    "DataParallel": lambda s: {f"module.{n}": t for n, t in s.items()},
    "compiled": lambda s: {f"_orig_mod.{n}": t for n, t in s.items()},
    "both": lambda s: {"state_dict": {f"module._orig_mod.{n}": t for n, t in s.items()}},
    "optimizer": lambda s: {"state_dict": s, "optimizer": {"state": {0: torch.zeros(3)}}},
    "argparse": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1)},
    "NumPy": lambda s: {"state_dict": s, "best": np.float64(0.5), "curve": np.arange(3)},
    "EMA": lambda s: {
        "state_dict": {n: torch.zeros_like(t) for n, t in s.items()},
        "state_dict_ema": s,
    },
    "model EMA": lambda s: {
        "model": {n: torch.zeros_like(t) for n, t in s.items()},
        "model_ema": s,
    },
}


@pytest.mark.parametrize(
    ("kind", "legacy"),
    # torch's own reader of the format before 1.6 refuses foreign classes.
    [
        (k, old)
        for k in WRAPPED
        for old in (False, True)
        if not old or k not in ("argparse", "NumPy")
    ],
)
def test_wrappers_are_taken_off(kind: str, legacy: bool, tmp_path: Path) -> None:
    state = {
        "conv.weight": torch.randn(4, 3).T,
        "bn.count": torch.tensor(7),
        "b": torch.ones(2).half(),
    }
    file = tmp_path / "model.pth"
    torch.save(WRAPPED[kind](state), file, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(str(file)).tensors
    assert set(found) == set(state)
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in state.items())


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(2)}, "extra": Hostile()}, "model.pt")
    assert torch.equal(read_checkpoint("model.pt").tensors["w"], torch.ones(2))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
        (b"<html>not found</html>" * 9, "not a readable checkpoint"),
    ],
    ids=["empty", "git-lfs pointer", "a web page"],
)
def test_files_that_are_no_checkpoints_say_what_they_are(
    content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        open_teacher(f"timm:test_vit:{tmp_path / 'x.pt'}")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_cut_archive_and_a_pickled_module_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(
        ValueError, match=r"Linear and no named tensors; save `model.state_dict\(\)`"
    ):
        read_checkpoint(str(file))
    torch.save({"w": torch.randn(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        read_checkpoint(str(file))


# ---- timm ----


def saved(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_timm_opens_what_timm_would(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    plain = open_teacher(f"timm:test_vit:{saved(state, tmp_path)}").weights_sha256
    for more in (
        {"mask_token": torch.zeros(1, 64)},
        {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)},
    ):
        file = saved(state | more, tmp_path)
        assert open_teacher(f"timm:test_vit:{file}").weights_sha256 == plain
    whole = timm.create_model("levit_128s").state_dict()
    assert open_teacher(f"timm:levit_128s:{saved(whole, tmp_path)}").dim == 384


def test_timm_resamples_position_embeddings_of_another_size(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    width = state["pos_embed"].shape[-1]
    flat = state | {"pos_embed": torch.full((1, 50, width), 0.25)}
    teacher = open_teacher(f"timm:test_vit:{saved(flat, tmp_path)}")
    assert teacher._model.pos_embed.shape == state["pos_embed"].shape
    assert torch.allclose(teacher._model.pos_embed, torch.tensor(0.25), atol=1e-4)


def test_timm_names_the_tensor_and_both_shapes_that_do_not_fit(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    bad = dict(state) | {"norm.weight": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"norm\.weight has shape \[3\], the model needs \[64\]"
    ) as e:
        open_teacher(f"timm:test_vit:{saved(bad, tmp_path)}")
    assert "without a network" not in str(e.value)
    del bad["norm.weight"]
    with pytest.raises(ValueError, match=r"missing norm\.weight"):
        open_teacher(f"timm:test_vit:{saved(bad, tmp_path)}")


def test_timm_asks_for_the_tag_where_tags_disagree(tmp_path: Path) -> None:
    name = "vit_small_patch16_224"
    (tmp_path / "x.pth").write_bytes(b"not read before the tag is known")
    with pytest.raises(ValueError, match=rf"timm:{name}\.\w+:PATH, timm:{name}\.dino:PATH"):
        open_teacher(f"timm:{name}:{tmp_path / 'x.pth'}")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_quantised_weights_are_refused(kind: torch.dtype, suffix: str, tmp_path: Path) -> None:
    """torch casts them to the model's type, without the scales that give them a meaning."""
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    state = {n: t.to(kind) if n.endswith("qkv.weight") else t for n, t in state.items()}
    file = tmp_path / f"w.{suffix}"
    torch.save(state, file) if suffix == "pth" else save_file(state, file)
    name = str(kind).removeprefix("torch.")
    # In an archive, torch writes newer types in another way, which is not read at all.
    said = rf"qkv\.weight is {name}, as quantised|storage \d+ is of a kind"
    with pytest.raises(ValueError, match=said):
        open_teacher(f"timm:test_vit:{file}")


@pytest.mark.parametrize(
    "start", [b"<!DOCTYPE html>", b"\x89HDF\r\n\x1a\n", b"{}", b"\x1f\x8b\x08"]
)
def test_other_formats_are_no_lesson_on_torch_load(start: bytes, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(start + bytes(200))
    with pytest.raises(ValueError, match=r"neither a file of safetensors nor one of torch\.save"):
        open_teacher(f"timm:test_vit:{file}")
