"""A trial's student, loaded from its folder, embeds pictures as it did when it was measured."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import shards
import trainers
from shards.datasets.decoder import decode
from trainers.results.folder import open_stored, trial_folder


def test_it_embeds_arrays_tensors_and_pictures_alike(done, bank) -> None:
    config, root, result, _ = done
    folder = trial_folder(root, config)
    student = trainers.load_student(folder)
    images_BCHW, _, _ = shards.Bank(bank, "test").batch(range(8))
    found_BD = student(images_BCHW)
    with torch.inference_mode():
        raw_BD = open_stored(folder).network(result.input.preprocess(images_BCHW))
    assert torch.allclose(found_BD, torch.nn.functional.normalize(raw_BD, dim=1), atol=1e-6)
    array_BHWC = images_BCHW.permute(0, 2, 3, 1).numpy()
    assert torch.equal(student(array_BHWC), found_BD)
    pictures = [Image.fromarray(array_HWC) for array_HWC in array_BHWC]
    assert torch.equal(student(pictures), found_BD)
    assert torch.allclose(student(array_BHWC[0]), found_BD[:1], atol=1e-6)
    assert student.classes == result.input.classes
    wide = Image.new("RGB", (64, 32))
    wide.paste(pictures[0], (16, 0))
    assert torch.allclose(student(wide), found_BD[:1], atol=1e-6)  # the middle


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def test_pictures_are_decoded_as_those_of_data_sets(done) -> None:
    config, root, _, _ = done
    student = trainers.load_student(trial_folder(root, config))
    ramp_HW = np.add.outer(np.arange(32), 2 * np.arange(32)).astype(np.uint16)
    black = Image.new("RGBA", (32, 32))
    black.paste((0, 0, 0, 255), (4, 8, 12, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = Image.fromarray(np.stack([ramp_HW, ramp_HW.T, 255 - ramp_HW], axis=2).astype(np.uint8))
    for name, data in {
        "16-bit grey": encoded(Image.fromarray(600 * ramp_HW), "PNG"),
        "transparent": encoded(black, "PNG"),
        "turned": encoded(rgb, "JPEG", exif=exif),
        "turned TIFF": encoded(rgb, "TIFF", exif=exif),
    }.items():
        picture = Image.open(io.BytesIO(data))
        decoded = decode(data, name)
        assert torch.equal(student(picture), student(np.array(decoded))), name
        assert torch.equal(student(picture), student(decoded)), name  # it was not changed
    with pytest.raises(ValueError, match="images: a converted picture of mode F"):
        student(Image.new("F", (32, 32)))


def test_other_input_and_other_folders_are_refused(done, bank, tmp_path) -> None:
    config, root, _, _ = done
    student = trainers.load_student(trial_folder(root, config))
    for wrong in (np.zeros((8, 8, 3)), torch.zeros(8, 8, 3, dtype=torch.uint8), "cat.jpg"):
        with pytest.raises(ValueError, match="expected"):
            student(wrong)
    with pytest.raises(ValueError, match=r"expected a trial's folder \(result.json"):
        trainers.load_student(tmp_path)
    alone = shutil.copytree(f"{trial_folder(root, config)}/student", tmp_path / "alone")
    with pytest.raises(ValueError, match="a student without its trial"):
        trainers.load_student(alone)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=r"result\.json: "):
        trainers.load_student(tmp_path)
