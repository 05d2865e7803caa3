"""benchmarks/gpu_check.py: its parts also run on a CPU, here with sizes that measure nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_check
from trainers.canonical import make_config

SIZES = {"train_samples": 130, "test_samples": 60}
SMALL = {"epochs": 2, "probes": ("linear",), "batch_size": 32}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    bank = str(tmp_path_factory.mktemp("gpu-check"))
    return gpu_check.make_bank(bank, **SIZES) | SMALL, bank


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.thorough
def test_half_precision_is_compared_by_seeds(small, tmp_path, half):
    fields, bank = small
    found = gpu_check.precision_differences(fields, bank, str(tmp_path), "cpu", 2, half)
    assert "test/linear/paper/accuracy" in gpu_check.JUDGED
    assert {name.split("/")[1] for name in found} == {"linear"}
    gap, sd = found["test/linear/paper/accuracy"]
    assert abs(gap) <= 1
    assert sd >= 0


def test_an_interrupted_trial_resumes_exactly(small, tmp_path, capsys):
    fields, bank = small
    assert gpu_check.resumes_exactly(fields, bank, str(tmp_path), "cpu")
    assert "state saved at step 5" in capsys.readouterr().out


def test_a_step_takes_time():
    config = make_config(gpu_check.FIELDS | {"batch_size": 4})
    assert gpu_check.step_ms(config, 8, torch.device("cpu"), steps=2, warm=1) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_ends_with_one_line(capsys):
    assert gpu_check.main() == 2
    output = capsys.readouterr()
    assert "no CUDA device" in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
