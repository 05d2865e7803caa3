"""Which images are right, in a file: packed, read to the same bits, and damage is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainers.results.record import ProbeResult
from trainers.results.shares import packed, unpacked


@pytest.mark.parametrize("draws", [1, 2, 3, 7, 10, 64])
@pytest.mark.parametrize("images", [1, 359, 1000])
def test_shares_of_draws_come_back_to_the_bit(draws: int, images: int) -> None:
    right_VN = np.random.default_rng(draws).random((draws, images)) < 0.8
    shares = (right_VN.sum(axis=0) / draws).tolist()
    text = packed(shares)
    assert text is not None
    assert unpacked(text) == shares


def test_ten_thousand_images_take_their_bits_alone() -> None:
    text = packed([float(n % 3 != 0) for n in range(10_000)])
    assert text is not None
    assert len(text) == len("10000 / 1: ") + 1668  # 1,250 bytes, four characters for three


@pytest.mark.parametrize("values", [[0.1234567], [1.5], [-1.0], [float("nan")]])
def test_other_numbers_are_not_packed(values: list[float]) -> None:
    assert packed(values) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nonsense", "found `nonsense`; expected `IMAGES / DRAWS: BASE64`"),
        ("8 / 0: ", "found `8 / 0: `"),
        ("8 / 1: //8=", "2 bytes for 8 images of 1 bits"),
        ("8 / 1: /w=", "padding"),
        ("4 / 2: /w==", "right in 3 of 2 draws"),
    ],
)
def test_a_damaged_text_is_named(text: str, error: str) -> None:
    with pytest.raises(ValueError, match="shares: ") as raised:
        unpacked(text)
    assert error in str(raised.value)


def test_a_result_packs_them_in_its_file_alone_and_reads_older_lists() -> None:
    arrays = {"test/knn/correct": [1.0, 0.0, 0.5], "test/spectrum": [1.0, 0.0]}
    entry = ProbeResult(version=1, metrics={}, teacher={}, arrays=arrays, undefined=[])
    stored = json.loads(json.dumps(entry.model_dump(mode="json")))
    assert isinstance(stored["arrays"]["test/knn/correct"], str)
    assert stored["arrays"]["test/spectrum"] == [1.0, 0.0]
    assert ProbeResult.model_validate(stored).arrays == arrays
    assert ProbeResult.model_validate(stored | {"arrays": arrays}).arrays == arrays
    with pytest.raises(ValueError, match="test/spectrum"):
        ProbeResult.model_validate(stored | {"arrays": {"test/spectrum": "3 / 1: 4A=="}})
