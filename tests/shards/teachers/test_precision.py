"""The choice of arithmetic: bf16 only where it is faster and agrees."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.building.build import build
from shards.building.embed import channels_first
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.teachers import open_teacher, precision
from shards.teachers.precision import choose_precision, matmul_speedup

IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


def test_a_cpu_without_fast_bf16_computes_in_fp32_and_loads_nothing(monkeypatch) -> None:
    monkeypatch.setattr(precision, "matmul_speedup", lambda: 1.1)
    monkeypatch.setattr(precision, "open_teacher", lambda *a: pytest.fail("loaded"))
    assert choose_precision("embedded", "cpu", IMAGES).precision == "fp32"


class Fake:
    """The embedded teacher with a pace and an error of its own in bf16."""

    def __init__(self, clock: list[float], slower: float, error: float) -> None:
        self._teacher, self._clock = open_teacher("embedded"), clock
        self._slower, self._error, self._bf16 = slower, error, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def cast(self, precision: str) -> None:
        self._bf16 = precision == "bf16"

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        self._clock[0] += self._slower if self._bf16 else 1.0
        out = self._teacher.embed(inputs)
        return out + self._bf16 * self._error * out.roll(1, dims=1)


@pytest.mark.parametrize(
    ("pace", "error", "chosen"),
    [(0.5, 0.0, "bf16"), (0.5, 0.1, "fp32"), (0.95, 0.0, "fp32")],
    ids=["faster and equal", "faster and apart", "not faster"],
)
def test_bf16_must_be_faster_and_agree(pace, error, chosen, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(precision, "matmul_speedup", lambda: 2.0)
    monkeypatch.setattr(precision, "open_teacher", lambda spec, device: Fake(clock, pace, error))
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(precision.time, name, lambda: clock[0])
    choice = choose_precision("embedded", "cpu", IMAGES)
    assert choice.precision == chosen
    if chosen == "bf16":
        assert choice.speedup == pytest.approx(2, rel=0.3)
        assert choice.cosine > 0.9999


def test_matmul_speedup_is_a_ratio_of_times() -> None:
    assert 1e-3 < matmul_speedup() < 100


TEACHER = "timm:test_vit2.r160_in1k:none"  # small; bf16 pays where a CPU multiplies in it


def test_a_real_teacher_gets_bf16_only_where_it_agrees() -> None:
    images = channels_first(open_dataset("digits").read("train", 0, 32).images_NHWC)
    choice = choose_precision(TEACHER, "cpu", images)
    exact, half = (open_teacher(TEACHER, "cpu", which) for which in ("fp32", "bf16"))
    inputs = exact.preprocess(images)
    reference_BD, found_BD = exact.embed(inputs).double(), half.embed(inputs).double()
    cosine = float(torch.cosine_similarity(found_BD, reference_BD).min())
    assert 0.999 < cosine < 1  # it is another arithmetic
    if choice.precision == "bf16":
        assert cosine >= 0.9999
        assert choice.speedup >= 1.2
        assert choice.cosine == pytest.approx(cosine, abs=1e-6)
    else:
        assert choice == precision.Choice("fp32")


@pytest.mark.faults
def test_the_choice_is_in_the_manifest_and_kept_by_a_build_that_was_killed(tmp_path: Path) -> None:
    """Chosen by timing in one process, kept by another, and the bytes are those of that choice."""
    request = Request(
        dataset="digits", teachers=(TEACHER,), arms=("noise",), views=2, train_samples=40,
        test_samples=10, shard_samples=20,
    )  # fmt: skip
    out = tmp_path / "killed"
    code = (
        "import time, sys, shards.bank.writer as w; publish = w.BankWriter.publish\n"
        "def slow(*a): publish(*a); time.sleep(60)\n"
        "w.BankWriter.publish = slow\n"
        "from shards.build import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *request.arguments(str(out)), "--device", "cpu"],
        stderr=subprocess.DEVNULL,
    )
    while not (out / "shards.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    chosen = json.loads((out / "plan.json").read_text())["teachers"][0]["precision"]
    assert chosen in ("fp32", "bf16")
    first = (out / "train-000000.tar").stat().st_ino
    manifest = build(request, str(out))
    assert manifest.plan.teachers[0].precision == chosen
    assert (out / "train-000000.tar").stat().st_ino == first
    asked = request.model_copy(update={"precision": chosen})
    whole = build(asked, str(tmp_path / "whole"))
    assert whole.shards == manifest.shards  # with every sha256
    assert whole.identity == manifest.identity
    other = request.model_copy(update={"precision": "fp32" if chosen == "bf16" else "bf16"})
    assert build(other, str(tmp_path / "other")).shards != manifest.shards
