"""Stored CIFAR-10-C: read by rows, never unpickled, refused where it is not what it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.arms import make_arm
from shards.arms.cifar10c_files import COUNT, SHAPE, check_stored
from shards.building.request import Request

KEYS = ("test/000000", "test/000007", "test/009999")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Files of the right shape: every value tells severity and row. Sparse on disk."""
    folder = tmp_path_factory.mktemp("data")
    place = folder / "CIFAR-10-C"
    place.mkdir()
    images = np.lib.format.open_memmap(place / "fog.npy", "w+", np.uint8, SHAPE)
    for severity in range(5):
        for key in KEYS:
            row = int(key[5:])
            images[severity * COUNT + row] = 10 * severity + row % 10
    images.flush()
    np.save(place / "labels.npy", np.tile(np.arange(COUNT) % 10, 5).astype(np.uint8))
    np.save(place / "snow.npy", np.zeros((5, 32, 32, 3), dtype=np.uint8))
    np.save(place / "contrast.npy", np.zeros(SHAPE[:1], dtype=np.float32))
    np.save(place / "frost.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (place / "pixelate.npy").write_bytes(b"no array")
    return folder


@pytest.fixture(autouse=True)
def at_data(data: Path, monkeypatch) -> None:
    monkeypatch.setenv("DISTIL_DATA", str(data))


def test_rows_are_those_of_the_keys_at_each_severity() -> None:
    for severity in (1, 3, 5):
        arm = make_arm(f"stored:fog:{severity}")
        params = arm.draw(3, KEYS, 2)
        assert params.shape == (3, 2, 1)
        assert params[:, 1, 0].tolist() == [0, 7, 9999]
        clean = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
        out = arm.pixels(clean, torch.from_numpy(params[:, 0].copy()))
        assert out.shape == clean.shape
        assert out.amin(dim=(1, 2, 3)).tolist() == [10 * (severity - 1) + d for d in (0, 7, 9)]
        assert torch.equal(out.amin(dim=(1, 2, 3)), out.amax(dim=(1, 2, 3)))


def test_a_stored_corruption_has_spec_metric_and_one_view() -> None:
    arm = make_arm("stored:frost:2")
    assert (arm.spec, arm.metric) == ("stored:frost:2", "stored/frost/2")
    assert arm.test_only
    assert arm.views(5) == 1
    assert make_arm("stored").spec == "stored:fog:3"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("stored:snow:1", ("snow.npy", "(5, 32, 32, 3)", "(50000, 32, 32, 3)")),
        ("stored:contrast:1", ("contrast.npy", "float32", "uint8")),
        ("stored:frost:1", ("frost.npy", "not a readable .npy")),
        ("stored:pixelate:1", ("pixelate.npy", "not a readable .npy")),
        ("stored:brightness:1", ("brightness.npy", "DISTIL_DATA")),
    ],
)
def test_other_files_are_refused(spec: str, parts: tuple[str, ...], refused) -> None:
    params = torch.zeros(1, 1, dtype=torch.int64)
    clean = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    refused(lambda: make_arm(spec).pixels(clean, params), *parts)
    refused(lambda: check_stored(spec, KEYS[:1], np.array([0])), *parts)


def test_labels_must_be_those_of_the_samples(refused) -> None:
    labels = np.array([0, 7, 9])
    check_stored("stored:fog:4", KEYS, labels)
    refused(
        lambda: check_stored("stored:fog:4", KEYS, np.array([0, 8, 9])),
        "labels.npy",
        "test/000007",
        "cifar10",
    )


@pytest.mark.parametrize("key", ["train/000001", "digit/0001", "test/010000", "test/1"])
def test_other_samples_are_refused(key: str, refused) -> None:
    refused(lambda: make_arm("stored:fog:1").draw(0, (key,), 1), key, "not a test image")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("stored:fgo:1", ("unknown stored corruption `fgo`", "did you mean `fog`")),
        ("stored:fog:6", ("stored:fog:6", "from 1 to 5")),
    ],
)
def test_unknown_names_are_refused(spec: str, parts: tuple[str, ...], refused) -> None:
    refused(lambda: make_arm(spec), *parts)


def test_requests_of_other_data_or_for_training_are_refused(refused) -> None:
    def ask(**fields):
        return Request(**({"dataset": "cifar10", "teachers": ("embedded",)} | fields))

    assert ask(test_arms=("stored:fog:2",)).test_arms == ("stored:fog:2",)
    with pytest.raises(ValueError, match="stored:fog:2"):
        ask(dataset="digits", test_arms=("stored:fog:2",))
    with pytest.raises(ValueError, match="test images only"):
        ask(arms=("stored:fog:2",))
