"""What a bank costs, told before it is built."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.bank.members import pack
from shards.bank.reader import load_manifest
from shards.build import main
from shards.building.build import build
from shards.building.estimate import (
    Spread,
    _print_total,
    bank_bytes,
    plan_bytes,
    print_cost,
    teacher_seconds,
)
from shards.building.request import Request
from tests.shards.foreign import samples, write_tar


def test_a_disk_too_small_is_refused_before_anything_is_computed(
    request_60: Request, tmp_path: Path, monkeypatch, refused
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shards.building.build.shutil.disk_usage", lambda path: usage)
    refused(lambda: build(request_60, str(tmp_path / "x")), "bytes needed", "1,000 bytes free")
    assert not list(tmp_path.glob("x/*.tar"))


@pytest.mark.parametrize(
    ("labels", "part"),
    [((0, 0, 0), "all train images are of one class (`0`)"), ((0, 1, 2), "has one train image")],
)
def test_train_images_that_no_linear_probe_fits_are_refused_when_planned_and_built(
    labels: tuple[int, ...], part: str, tmp_path: Path, refused
) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / f"{split}-0.tar", samples(0, 3, lambda row: labels[row]))
    spec = f"wds:{tmp_path}/{{split}}-*.tar"
    request = Request(dataset=spec, teachers=("embedded",))
    refused(lambda: bank_bytes(request), f"dataset {spec}", part, "the probe `linear`")
    refused(lambda: build(request, str(tmp_path / "bank")), spec, part, "the probe `linear`")
    assert not list(tmp_path.glob("bank/*.tar"))


def test_a_subset_of_one_image_a_class_is_refused_when_planned(
    request_60: Request, refused
) -> None:
    few = request_60.model_copy(update={"train_samples": 10})
    refused(lambda: bank_bytes(few), "train_samples: 10", "10 classes", "the probe `linear`")


def test_bytes_are_estimated_within_a_hundredth(bank: Path, request_60: Request) -> None:
    manifest = load_manifest(str(bank))
    real = sum(record.bytes for record in manifest.shards)
    assert plan_bytes(manifest.plan) == bank_bytes(request_60)
    assert real <= bank_bytes(request_60) <= real * 1.01 + 20_000 * len(manifest.shards)


@pytest.mark.thorough
def test_a_dry_run_tells_bytes_and_seconds_no_money_of_a_cpu_and_writes_nothing(
    tmp_path: Path, capsys
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("--dataset", "digits", "--teacher", "embedded", "--arm", "noise", "--views", "4"),
                *("--arm", "noise_denoise", "--out", str(tmp_path / "x")),
                *("--device", "cpu", "--dry-run", "--gpu-price", "7200"),
            ]
        )
    assert not ended.value.code
    text = capsys.readouterr().out
    assert "1,438 train and 359 test images" in text
    assert "noise:0.1 x4, noise_denoise:0.1 x4" in text
    passes = 1438 * 5 + 359  # the views of noise_denoise are copies of the clean one
    assert f"{passes:,} images of 32 px" in text
    assert re.search(r"^seconds: [\d,]+, about [\d:]+, on this machine's cpu$", text, re.M)
    assert "cost: unknown, because a CPU was timed" in text
    assert not (tmp_path / "x").exists()


def test_cost_is_that_of_all_gpus_and_time_is_shared(capsys) -> None:
    for spread in (None, Spread("auto", None), Spread("auto", 4)):
        _print_total(7200.0, "cuda", 3.0, spread)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seconds: 7,200, about 2:00:00, on this machine's cuda"
    assert lines[2].startswith("seconds: 7,200, about 2:00:00, on 1 Ray workers, each one GPU")
    assert "--workers N sets" in lines[2]
    assert lines[4].startswith("seconds: 1,800, about 30:00, on 4 Ray workers")
    assert lines[1::2] == ["cost: 6.00 at 3 per GPU hour"] * 3


@pytest.mark.parametrize(("workers", "seconds"), [(None, 100), (1, 200), (2, 100), (8, 100)])
def test_a_ray_started_here_has_the_cores_of_this_machine(
    workers, seconds, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("shards.building.estimate.torch.get_num_threads", lambda: 2)
    _print_total(100.0, "cpu", None, Spread(None, workers))
    assert capsys.readouterr().out.startswith(f"seconds: {seconds},")


def test_both_rates_are_printed_where_bf16_is_possible(tmp_path: Path, capsys, monkeypatch) -> None:
    quick = functools.partial(teacher_seconds, seconds=0.1)
    monkeypatch.setattr("shards.building.estimate.teacher_seconds", quick)
    request = Request(dataset="digits", teachers=("embedded",))
    for speedup, lines in ((2.0, 1), (1.1, 0)):
        monkeypatch.setattr(
            "shards.building.estimate.matmul_speedup", lambda speedup=speedup: speedup
        )
        print_cost(request, str(tmp_path / "x"), "cpu", None)
        text = capsys.readouterr().out
        assert "(fp32 on cpu)" in text
        assert text.count("chooses bf16") == lines
    print_cost(request.model_copy(update={"precision": "bf16"}), str(tmp_path / "x"), "cpu", None)
    assert "(bf16 on cpu)" in capsys.readouterr().out


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
