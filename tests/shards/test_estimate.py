"""What a bank costs, told before it is built."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.build import build, main
from shards.estimate import bank_bytes, plan_bytes
from shards.format import pack
from shards.reader import load_manifest
from shards.request import Request


def test_a_disk_too_small_is_refused_before_anything_is_computed(
    request_60: Request, tmp_path: Path, monkeypatch, refused
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shards.build.shutil.disk_usage", lambda path: usage)
    refused(lambda: build(request_60, str(tmp_path / "x")), "bytes needed", "1,000 bytes free")
    assert not list(tmp_path.glob("x/*.tar"))


def test_bytes_are_estimated_within_a_hundredth(bank: Path, request_60: Request) -> None:
    manifest = load_manifest(str(bank))
    real = sum(record.bytes for record in manifest.shards)
    assert plan_bytes(manifest.plan) == bank_bytes(request_60)
    assert real <= bank_bytes(request_60) <= real * 1.01 + 20_000 * len(manifest.shards)


def test_a_dry_run_tells_bytes_seconds_and_money_and_writes_nothing(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("--dataset", "digits", "--teacher", "embedded", "--arm", "noise", "--views", "4"),
                *("--arm", "noise_denoise", "--out", str(tmp_path / "x")),
                *("--dry-run", "--gpu-price", "7200"),
            ]
        )
    assert not ended.value.code
    text = capsys.readouterr().out
    assert "1,438 train and 359 test images" in text
    assert "noise:0.1 x4, noise_denoise:0.1 x4" in text
    passes = 1438 * 5 + 359  # the views of noise_denoise are copies of the clean one
    assert f"{passes:,} images of 32 px" in text
    seconds = float(re.search(r"seconds: ([\d,]+)", text)[1].replace(",", ""))
    money = float(re.search(r"money: ([\d.,]+)", text)[1].replace(",", ""))
    assert money == pytest.approx(2 * seconds, abs=2)
    assert not (tmp_path / "x").exists()


def test_shards_of_cifar_with_8_views_are_hardly_larger_than_their_arrays() -> None:
    n, views, dim = 1000, 9, 512
    arrays = {
        "image": np.zeros((n, 32, 32, 3), np.uint8),
        "label": np.zeros(n, np.int64),
        "params": np.zeros((n, views, 3), np.int64),
        "embedding.0": np.zeros((n, views, dim), np.float16),
        "norm.0": np.zeros((n, views), np.float32),
    }
    keys = tuple(f"train/{i:06d}" for i in range(n))
    assert len(pack(0, arrays, keys)) < 1.01 * sum(array.nbytes for array in arrays.values())
