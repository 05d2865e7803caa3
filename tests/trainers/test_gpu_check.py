"""benchmarks/gpu_check.py: its parts run on a CPU, with sizes that say nothing about one."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_check
from trainers.canonical import make_config

SIZES = {"train_samples": 130, "test_samples": 60}
SMALL = {"epochs": 2, "probes": ("linear",), "batch_size": 32}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("gpu-check"))
    return gpu_check.make_bank(place, **SIZES) | SMALL, place


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


def test_an_ended_trial_goes_on_exactly(small, tmp_path, capsys):
    fields, bank = small
    assert gpu_check.resumes_exactly(fields, bank, str(tmp_path), "cpu")
    assert "state saved at step 5; the same command again continues" in capsys.readouterr().out


def test_a_step_takes_time():
    config = make_config(gpu_check.FIELDS | {"batch_size": 4})
    assert gpu_check.step_ms(config, 8, torch.device("cpu"), steps=2, warm=1) > 0


def test_without_a_gpu_it_says_so_in_a_line(capsys):
    assert gpu_check.main() == 2
    said = capsys.readouterr()
    assert said.err == "gpu_check: no CUDA device here; nothing was checked\n"
    assert said.out == ""
