"""StudentCLIP: the student in its teacher's image tower's place, as open_clip would use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.teachers import open_teacher, text_tower
from shards.teachers.clip import ClipTeacher, build_text
from shards.teachers.prompts import class_embeddings, templates_for, unpack_floats
from trainers.export import export, main
from trainers.exports.student_clip import StudentCLIP, load_clip
from trainers.probes.features import unit
from trainers.results.folder import trial_folder
from trainers.runner import run_trial
from trainers.students.files import load_student


@pytest.fixture(scope="module")
def trained(bank, make, tmp_path_factory):
    """A student of 12 epochs: its trial's folder and result."""
    root = str(tmp_path_factory.mktemp("clip"))
    config = make(epochs=12, arm="clean", batch_size=20, probes=("linear",), lr=3e-3)
    return trial_folder(root, config), run_trial(config, bank, root)


@pytest.fixture(scope="module")
def exported(trained, bank, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "clip"
    assert export(trained[0], "open_clip", str(out), bank)["parity"]["cosine"] >= 0.9999
    return str(out)


@pytest.fixture(scope="module")
def pictures(bank):
    """(uint8 test images, labels, class embeddings of the bank)."""
    manifest = load_manifest(bank)
    (split,) = load_splits(bank, manifest, "test", ("clean",), 0, False).values()
    packed = manifest.class_embeddings[0]
    text_CD = unpack_floats(packed.shape, packed.float32, "")
    images = torch.from_numpy(split.images_NHWC.copy()).permute(0, 3, 1, 2)
    return images, split.labels_N, text_CD


def test_zero_shot_is_what_the_banks_class_embeddings_give(trained, exported, pictures):
    images, labels_N, text_CD = pictures
    clip = load_clip(exported)
    student = load_student(Path(trained[0]) / "student")
    with torch.no_grad():
        own_ND = unit(student(clip.preprocess(images)).numpy())
    expected_N = (own_ND @ text_CD.T).argmax(axis=1)
    assert (clip.classify(clip.preprocess(images)).argmax(dim=1).numpy() == expected_N).all()
    assert (expected_N == labels_N).mean() > 0.5  # chance is 0.1
    prompts = templates_for("digits")
    again_CD = class_embeddings(clip, clip.classes, prompts)  # the text tower, not what was stored
    assert again_CD == pytest.approx(text_CD, abs=1e-5)
    image_ND = clip.encode_image(clip.preprocess(images), normalize=True).detach().numpy()
    assert ((image_ND @ again_CD.T).argmax(axis=1) == expected_N).all()


def test_it_is_called_as_open_clip_is(exported, pictures):
    """The same code runs on the teacher's own open_clip model and on the student."""
    clip, teacher = load_clip(exported), open_teacher("embedded")
    assert isinstance(teacher, ClipTeacher)
    real = teacher._model
    assert isinstance(real, open_clip.CLIP)
    tokens = clip.tokenizer(["the number 3", "the number 7"])
    images = clip.preprocess(pictures[0][:4])
    for normalize in (False, True):
        ours, theirs = (m.encode_text(tokens, normalize=normalize) for m in (clip, real))
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert clip.encode_image(images, normalize=normalize).shape == (4, teacher.dim)
    assert torch.equal(clip.logit_scale, real.logit_scale)
    outputs, expected = clip(images, tokens), real(teacher.preprocess(pictures[0][:4]), tokens)
    assert [o.shape for o in outputs] == [o.shape for o in expected]
    assert torch.allclose(outputs[0].norm(dim=1), torch.ones(4))
    by_image, by_text = clip.get_logits(images, tokens)
    assert torch.equal(by_image, by_text.T)
    product = outputs[2] * outputs[0] @ outputs[1].T
    assert torch.allclose(by_image, product, atol=1e-4)


def test_without_a_bank_the_record_names_classes_and_prompts(trained, exported, tmp_path):
    out = str(tmp_path / "clip")
    export(trained[0], "open_clip", out)
    one, other = load_clip(out), load_clip(exported)
    assert one.classes == other.classes
    assert torch.allclose(one.text_CD, other.text_CD, atol=1e-6)


def test_another_teachers_text_tower_is_refused(trained, tmp_path, capsys):
    place = tmp_path / "trial"
    shutil.copytree(trained[0], place)
    record = json.loads((place / "result.json").read_text())
    record["weights_sha256"] = "f" * 64
    (place / "result.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"f{16}"):
        export(str(place), "open_clip", str(tmp_path / "out"))
    with pytest.raises(SystemExit):
        main([trained[0], "--to", "onnx", "--out", str(tmp_path / "out"), "--teacher", "embedded"])
    assert "--teacher: has no effect" in capsys.readouterr().err
    with pytest.raises(ValueError, match="text tower"):
        text_tower(open_teacher("timm:test_vit.r160_in1k:none"))


@pytest.mark.parametrize(
    "change", [{"objective": "supervised", "target": "labels"}, {"target": "whitened"}]
)
def test_a_student_outside_its_teachers_space_is_no_clip(trained, make, tmp_path, change):
    place = tmp_path / "trial"
    shutil.copytree(trained[0], place)
    record = json.loads((place / "result.json").read_text())
    config = make(**(record["config"] | change))
    record |= {"id": config.identity, "config": config.model_dump(mode="json")}
    (place / "result.json").write_text(json.dumps(record))
    named = f"objective {config.objective}, target {config.target}, 12 epochs"
    with pytest.raises(ValueError, match=rf"{named}.*not in its teacher's space"):
        export(str(place), "open_clip", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    for folder, space in (
        (place, f"not in the teacher's embedding space ({named})"),
        (trained[0], "in the teacher's embedding space"),
    ):
        about = export(str(folder), "torch.export", str(tmp_path / Path(space[:3]) / "out"))
        assert about["outputs"]["embeddings"]["meaning"] == f"{space}, not of unit length"


@pytest.mark.parametrize("damage", ["flip", "format"])
def test_a_damaged_export_names_the_file(exported, tmp_path, damage):
    place = tmp_path / "clip"
    shutil.copytree(exported, place)
    if damage == "flip":
        file = place / "text.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"text\.safetensors"):
            load_clip(str(place))
    else:
        (place / "clip.json").write_text('{"format": "student-clip/0"}')
        with pytest.raises(ValueError, match="student-clip/0"):
            load_clip(str(place))


def test_a_registered_models_text_tower_is_made_again():
    teacher = open_teacher("open_clip:ViT-S-32-alt:none")
    tower = text_tower(teacher)
    assert (tower.architecture, tower.quick_gelu) == ("ViT-S-32-alt", False)
    state = {name: tensor.clone() for name, tensor in tower.clip.state_dict().items()}
    assert not any(name.startswith("visual.") for name in state)
    images = torch.zeros(1, 3, teacher.preprocess.size, teacher.preprocess.size)
    assert teacher.embed(images).shape == (1, teacher.dim)  # the teacher keeps its image tower
    again = build_text(tower.architecture, tower.quick_gelu, state)
    texts = ["a cat", "a dog"]
    found = again.encode_text(again.tokenizer(texts))
    assert torch.allclose(found, teacher.embed_text(texts), atol=1e-5)
    with pytest.raises(ValueError, match="weights"):
        build_text("embedded", False, state)
    with pytest.raises(ValueError, match="ViT-S-32-alto"):
        build_text("ViT-S-32-alto", False, state)


def test_a_bias_shifts_the_logits(exported):
    """SigLIP's teachers have one beside the scale."""
    clip = load_clip(exported)
    images = torch.zeros(2, 3, clip.preprocess.size, clip.preprocess.size)
    plain = clip.classify(images)
    clip.text.clip.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    assert torch.allclose(clip.classify(images), plain - 10, atol=1e-4)
    assert len(clip(images, clip.tokenizer(["a"]))) == 4


def test_classes_and_rows_belong_together(exported):
    clip = load_clip(exported)
    with pytest.raises(ValueError, match="text_CD"):
        StudentCLIP(clip.student, clip.text, clip.preprocess, ("a", "b"), np.ones((1, 4)))
    bare = StudentCLIP(clip.student, clip.text, clip.preprocess)
    with pytest.raises(ValueError, match="classes"):
        bare.classify(torch.zeros(1, 3, clip.preprocess.size, clip.preprocess.size))
