"""Exports: each read by its own library, compared with the student, refused where they differ."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.bank.reader import load_manifest, load_shard
from shards.support import storage
from shards.teachers.preprocess import Preprocess
from trainers import export as command
from trainers.export import export
from trainers.exports.formats import EXPORTS, Exported
from trainers.results.folder import open_stored, read_result, trial_folder
from trainers.results.measured import student_files
from trainers.students import build_student
from trainers.students.files import load_student

ROOT = Path(__file__).parents[3]
TIMM = "timm:test_resnet"
onnx_installed = pytest.mark.skipif(
    not all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra `export` is not installed",
)


def random_images(about, count=5):
    prepare = Preprocess.model_validate(about["preprocess"])
    images = torch.from_numpy(
        np.random.default_rng(3).integers(0, 256, (count, 3, prepare.size, prepare.size), np.uint8)
    )
    return prepare(images)


@pytest.fixture(scope="module")
def trial(done):
    config, root, _, _ = done
    return trial_folder(root, config)


@pytest.fixture(scope="module")
def timm_place(make, trial, tmp_path_factory):
    """A trial's folder whose student is a timm model, untrained."""
    place = tmp_path_factory.mktemp("timm") / "trial"
    shutil.copytree(trial, place)
    shutil.rmtree(place / "student")
    result = read_result(str(place / "result.json"))
    size = result.input.preprocess.size
    model = build_student(TIMM, result.data.dim, size, 1)
    for module in model.modules():  # or a wrong mapping of running statistics would not be seen
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    files = student_files(model, make(student=TIMM), result.data.dim, size)
    storage.write_folder(str(place / "student"), files)
    return str(place)


@onnx_installed
def test_onnx_runtime_gives_the_students_embeddings(trial, bank, tmp_path):
    import onnx
    import onnxruntime

    out = tmp_path / "onnx"
    about = export(trial, "onnx", str(out), bank)
    assert sorted(p.name for p in out.iterdir()) == ["export.json", "student.onnx"]
    assert json.loads((out / "export.json").read_text()) == about
    assert about["parity"]["cosine"] >= 0.9999
    assert about["parity"]["on"] == "16 test images"
    model = onnx.load(out / "student.onnx")
    onnx.checker.check_model(model)
    assert {o.domain: o.version for o in model.opset_import}[""] == about["opset"] == 18
    metadata = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert metadata["preprocess"] == about["preprocess"]
    session = onnxruntime.InferenceSession(str(out / "student.onnx"))
    (put,), (given,) = session.get_inputs(), session.get_outputs()
    assert (put.name, given.name) == ("images", "embeddings")
    assert isinstance(put.shape[0], str)  # the batch is open
    assert put.shape[1:] == about["inputs"]["images"]["shape"][1:]
    student = load_student(Path(trial) / "student")
    images = random_images(about)
    for rows in (1, 5):
        (found,) = session.run(None, {"images": images[:rows].contiguous().numpy()})
        with torch.no_grad():
            assert found == pytest.approx(student(images[:rows]).numpy(), abs=1e-4)


def test_what_export_says_of_preprocessing_is_what_training_did(trial, bank, done, tmp_path):
    """Images of the bank, prepared as export.json says in words, give the probes' embeddings."""
    _, _, result, _ = done
    about = export(trial, "torch.export", str(tmp_path / "out"))
    assert about["preprocess"] == result.input.preprocess.model_dump(mode="json")
    manifest = load_manifest(bank)
    shard = load_shard(bank, manifest, manifest.shards[0]).arrays["image"][:3]
    mean, std = (np.array(about["preprocess"][name]) for name in ("mean", "std"))
    assert shard.shape[1:3] == tuple(about["inputs"]["images"]["shape"][2:])
    by_hand = torch.from_numpy((shard / 255 - mean) / std).permute(0, 3, 1, 2).float()
    ours = Preprocess.model_validate(about["preprocess"])(
        torch.from_numpy(shard.copy()).permute(0, 3, 1, 2)
    )
    assert torch.allclose(by_hand, ours, atol=1e-5)


def test_torch_export_loads_without_unpickling_code(trial, tmp_path, monkeypatch):
    about = export(trial, "torch.export", str(tmp_path / "out"))
    assert "only files that you trust" in about["security"]
    data = (tmp_path / "out" / "student.pt2").read_bytes()
    original = torch.load

    def safe(*args, weights_only=True, **options):
        assert weights_only
        return original(*args, weights_only=True, **options)

    monkeypatch.setattr(torch, "load", safe)
    again = torch.export.load(io.BytesIO(data)).module()
    student, images = load_student(Path(trial) / "student"), random_images(about)
    with torch.no_grad():
        for rows in (1, 5):
            assert torch.allclose(again(images[:rows]), student(images[:rows]), atol=1e-5)


def test_timm_loads_a_students_folder(timm_place, tmp_path):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    out = tmp_path / "timm"
    about = export(timm_place, "timm", str(out))
    assert {"model.safetensors", "config.json"} <= {p.name for p in out.iterdir()}
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    student, images = load_student(Path(timm_place) / "student"), random_images(about)
    with torch.no_grad():
        assert torch.allclose(model(images), student(images), atol=1e-5)
    data = resolve_model_data_config(model)
    prepare = Preprocess.model_validate(about["preprocess"])
    assert tuple(data["input_size"]) == (3, prepare.size, prepare.size)
    assert tuple(data["mean"]) == prepare.mean
    assert tuple(data["std"]) == prepare.std
    from PIL import Image

    side = prepare.size
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    theirs = create_transform(**data, is_training=False)(Image.fromarray(pixels))
    ours = prepare(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_timm_has_no_place_for_a_cnn(trial, tmp_path):
    with pytest.raises(ValueError, match="width:1"):
        export(trial, "timm", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "to", [pytest.param("onnx", marks=[pytest.mark.thorough, onnx_installed]), "torch.export"]
)
def test_timm_students_go_everywhere(timm_place, to, tmp_path):
    assert export(timm_place, to, str(tmp_path / "out"))["parity"]["cosine"] >= 0.9999


def test_what_differs_is_not_written(trial, tmp_path, monkeypatch, capsys):
    made = EXPORTS["torch.export"]

    def wrong(job):
        good = made(job)
        turned = torch.linalg.qr(torch.randn(good.embed(job.example()).shape[1], 4))[0]
        return Exported(good.files, lambda x: good.embed(x) @ turned @ turned.T)

    monkeypatch.setitem(EXPORTS, "torch.export", wrong)
    with pytest.raises(SystemExit) as left:
        command.main([trial, "--to", "torch.export", "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@onnx_installed
def test_without_out_it_goes_beside_the_student(trial, tmp_path, capsys):
    place = tmp_path / "trial"
    shutil.copytree(trial, place)
    with pytest.raises(SystemExit) as left:
        command.main([str(place), "--to", "onnx"])
    assert left.value.code == 0
    about = place / "export/onnx/export.json"
    assert capsys.readouterr().out.splitlines()[-1] == str(about)
    assert sorted(p.name for p in about.parent.iterdir()) == ["export.json", "student.onnx"]


def test_not_finite_is_no_parity(trial):
    model = load_student(Path(trial) / "student")
    images = torch.zeros(3, 3, *[open_stored(trial).about["image_size"]] * 2)
    assert not command.parity(model, lambda x: model(x) * float("nan"), images) >= 0


def test_places_that_are_no_students(tmp_path, trial):
    with pytest.raises(ValueError, match=r"result.json"):
        open_stored(str(tmp_path))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    for taken in (full, full / "mine"):
        with pytest.raises(ValueError, match="is not empty"):
            export(trial, "onnx", str(taken))
    with pytest.raises(ValueError, match=r"unknown format `onxx`; did you mean `onnx`"):
        export(trial, "onxx", str(tmp_path / "out"))


def test_a_students_folder_by_itself(trial, bank, tmp_path):
    """Inside its trial it finds the record; copied away it needs the bank."""
    inside = open_stored(str(Path(trial) / "student"))
    assert inside.result == open_stored(trial).result
    alone = tmp_path / "copied"
    shutil.copytree(Path(trial) / "student", alone)
    with pytest.raises(ValueError, match="--bank"):
        export(str(alone), "torch.export", str(tmp_path / "out"))
    about = export(str(alone), "torch.export", str(tmp_path / "out"), bank)
    assert about["preprocess"] == inside.result.input.preprocess.model_dump(mode="json")
    assert about["trial"] is None


def test_a_bank_with_another_teachers_weights_is_refused(trial, bank, tmp_path):
    place = tmp_path / "old"
    shutil.copytree(trial, place)
    record = json.loads((place / "result.json").read_text())
    record["weights_sha256"] = "0" * 64
    (place / "result.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="0000000000000000"):
        export(str(place), "open_clip", str(tmp_path / "other"), bank)


def test_a_damaged_student_is_named_by_its_place(trial, tmp_path):
    place = tmp_path / "damaged"
    shutil.copytree(trial, place)
    file = place / "student" / "student.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged/student/student\.safetensors"):
        export(str(place), "onnx", str(tmp_path / "out"))


@pytest.mark.thorough
def test_the_command_without_the_extra_says_how_to_install_it(trial, tmp_path):
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "from trainers.export import main; main(sys.argv[1:])"
    )
    arguments = [trial, "--to", "onnx", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 2
    assert "pip install '.[export]'" in ran.stderr
    assert "Traceback" not in ran.stderr
