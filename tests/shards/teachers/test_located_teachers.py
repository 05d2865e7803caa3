"""Teachers that open_clip finds in a folder or on the hub, with their own configuration."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.building.build import build
from shards.building.estimate import teacher_seconds
from shards.building.request import Request
from shards.teachers import check_teacher, embedding_dim, input_size, open_teacher, text_tower
from shards.teachers.clip import build_text
from shards.verify import verify

WEIGHTS = "open_clip_model.safetensors"


def save(folder: Path, **vision: Any) -> Path:
    """The embedded CLIP as open_clip saves a model of its own."""
    source = resources.files("shards.teachers.embedded")
    config = json.loads((source / "config.json").read_text())
    model = {name: config[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}
    model["vision_cfg"] |= vision
    prepare = {name: config["preprocess_cfg"][name] for name in ("mean", "std", "interpolation")}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": prepare})
    )
    state = load_file(str(source / "weights.safetensors"))
    save_file({name: tensor.float() for name, tensor in state.items()}, folder / WEIGHTS)
    return folder


def test_a_folder_is_the_teacher_that_was_saved_in_it(tmp_path: Path) -> None:
    spec = f"open_clip:local-dir:{save(tmp_path / 'saved')}"
    found, embedded = open_teacher(spec), open_teacher("embedded")
    assert found.spec == spec
    assert check_teacher(spec) is None
    assert found.weights_sha256 == embedded.weights_sha256
    assert found.preprocess == embedded.preprocess
    assert (found.dim, found.preprocess.size) == (embedding_dim(spec), input_size(spec))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    inputs = found.preprocess(images)
    assert torch.equal(found.embed(inputs), embedded.embed(inputs))
    texts = ["a handwritten digit 3", "the number 4"]
    assert torch.equal(found.embed_text(texts), embedded.embed_text(texts))
    tower = text_tower(found)
    again = build_text(tower.architecture, tower.quick_gelu, tower.clip.state_dict())
    tokens = again.tokenizer(texts)
    assert torch.equal(again.encode_text(tokens), found.embed_text(texts))


def test_a_bank_of_it_is_built_estimated_and_replayed(tmp_path: Path) -> None:
    spec = f"open_clip:local-dir:{save(tmp_path / 'saved')}"
    request = Request(dataset="digits", teachers=(spec,), train_samples=20, test_samples=10)
    manifest = build(request, str(tmp_path / "bank"))
    assert manifest.plan.teachers[0].weights_sha256 == open_teacher("embedded").weights_sha256
    assert verify(str(tmp_path / "bank"), live=5).good
    (tmp_path / "saved" / WEIGHTS).unlink()
    assert teacher_seconds(spec, 32, seconds=0.01) > 0  # needs the architecture alone


def test_what_a_folder_lacks_is_one_line(tmp_path: Path, refused) -> None:
    folder = save(tmp_path / "saved")
    spec = f"open_clip:local-dir:{folder}"
    (folder / WEIGHTS).write_bytes(b"junk" * 100)
    refused(lambda: open_teacher(spec), spec)
    (folder / WEIGHTS).unlink()  # open_clip would only warn and draw random ones
    for call in (open_teacher, check_teacher):
        refused(lambda call=call: call(spec), "no weights in", str(folder), ".safetensors")
    config = folder / "open_clip_config.json"
    config.write_text("{")
    refused(lambda: embedding_dim(f"{spec}:none"), spec, "no configuration")
    refused(lambda: open_teacher(f"{spec}:none"), spec)
    config.unlink()
    for call in (open_teacher, check_teacher, embedding_dim):
        refused(lambda call=call: call(spec), "no file", str(config))
    refused(lambda: build_text(spec.removeprefix("open_clip:"), False, {}), str(folder))


def test_a_model_that_takes_no_squares_is_refused(tmp_path: Path, refused) -> None:
    spec = f"open_clip:local-dir:{save(tmp_path / 'saved', image_size=[32, 48])}:none"
    for call in (open_teacher, input_size):
        refused(lambda call=call: call(spec), spec, "[32, 48]" if call is input_size else "32, 48")


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch, refused) -> None:
    spec = "open_clip:hf-hub:somebody/tiny"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert check_teacher(spec) == "weights from the hub repository somebody/tiny"
    refused(lambda: check_teacher("open_clip:hf-hub:tiny"), "hf-hub:OWNER/NAME")
    folder = save(tmp_path / "saved")

    def fetch(repository: str, filename: str | None = None, **_: object) -> str:
        file = folder / (filename or WEIGHTS)
        if repository != "somebody/tiny" or not file.is_file():
            raise FileNotFoundError(f"no network here for {repository}")
        return str(file)

    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", fetch)
    assert open_teacher(spec).weights_sha256 == open_teacher("embedded").weights_sha256
    assert embedding_dim(spec) == 512
    (folder / WEIGHTS).unlink()
    refused(lambda: open_teacher(spec), "hub repository somebody/tiny", "open_clip:local-dir:PATH")
    shutil.rmtree(folder)
    refused(lambda: embedding_dim(spec), spec, "no network here")


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, refused) -> None:
    folder = save(tmp_path / "saved")
    for text in ("[1]", "{", "{}", '{"model_cfg": []}'):
        (folder / "open_clip_config.json").write_text(text)
        refused(lambda: check_teacher(f"open_clip:local-dir:{folder}"), "configuration")


def test_the_text_library_is_asked_for_before_any_download(
    tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)  # nothing is installed
    asks = "transformers; pip install 'distilsweep[transformers]'"
    text = {"hf_tokenizer_name": "owner/name"}
    pairs = [
        f"{model}:{tag}"
        for model, tag in open_clip.list_pretrained()
        if {"hf_model_name", "hf_tokenizer_name"}
        & (open_clip.get_model_config(model) or {})["text_cfg"].keys()
    ]
    assert len(pairs) >= 47
    for pair in [*pairs, f"{pairs[0].partition(':')[0]}:none"]:
        refused(lambda pair=pair: open_teacher(f"open_clip:{pair}"), asks, pair)

    folder = save(tmp_path / "saved")
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= text
    file.write_text(json.dumps(config))
    refused(lambda: check_teacher(f"open_clip:local-dir:{folder}"), asks)
    monkeypatch.setattr(open_clip.factory, "_get_hf_config", lambda *a, **k: config)
    refused(lambda: open_teacher("open_clip:hf-hub:owner/name"), asks)
