"""The choice of arithmetic: bf16 only where it is faster and agrees."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shards import precision
from shards.precision import choose_precision, matmul_speedup
from shards.teachers import open_teacher

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
