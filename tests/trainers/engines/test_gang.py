"""Real trials of several ranks that leave in the middle and go on, and one that diverges."""

import contextlib
import random
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainers.engines.gang import PORTS, STOPS
from tests.trainers.small_runs import data_of, same, without_times
from trainers.engines import launch
from trainers.engines.watchdog import LIMIT_VARIABLE
from trainers.results.folder import finished, trial_folder
from trainers.runner import run_trial
from trainers.training.data import permutation
from trainers.training.divergence import DivergedError

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]
FIELDS = {
    "ranks": 2, "batch_size": 48, "epochs": 3, "arm": "crop_flip", "accumulate": 2, "ema": 0.5,
    "probes": ("linear",),
}  # fmt: skip
GANGS = [  # ZeRO 1 is in tests/faults/test_leaving.py: DeepSpeed has one group a process
    {"engine": "ddp"},
    pytest.param({"engine": "ddp", "ranks": 3, "arm": "noise:0.1"}, marks=pytest.mark.slow),
]


def quiet_ports(count: int) -> list[int]:
    """Free ports below those that the system gives to connections, such as gloo's meanwhile."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found[:count]


@pytest.mark.faults
@pytest.mark.parametrize("gang", GANGS, ids=lambda gang: str(gang.get("ranks", 2)))
def test_interrupted_it_ends_bitwise_equal_and_a_nan_is_divergence(
    bank, make, tmp_path, monkeypatch, gang
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(LIMIT_VARIABLE, "60")
    monkeypatch.setenv(PORTS, " ".join(map(str, quiet_ports(len(STOPS) + 3))))
    code = "from tests.trainers.engines.gang import main; main()"
    monkeypatch.setattr(launch, "RANK_CODE", code)
    config = make(**FIELDS | gang)
    data = data_of(bank, config.arm)
    first = permutation(config.seed, 1, 200)[48:96].tolist()[:3]
    names = ", ".join(f"`{data.keys[i]}`" for i in first)
    with pytest.raises(DivergedError) as caught:
        run_trial(config, bank, str(tmp_path))
    assert str(caught.value) == (
        f"diverged at step 6 (epoch 2): the loss is nan on 48 samples ({names}, ...); "
        "try a smaller lr"
    )
    assert finished(str(tmp_path), config) is None
    whole, broken = (str(tmp_path / name) for name in ("whole", "broken"))
    one, other = (finished(root, config) for root in (whole, broken))
    assert one is not None
    assert other is not None
    assert without_times(one) == without_times(other)
    last = "checkpoints/step-00000012/arrays.safetensors"
    arrays = [load_file(Path(trial_folder(root, config)) / last) for root in (whole, broken)]
    assert same(*arrays)
    assert any(name.startswith("rank/0/optimizer/") for name in arrays[0])
    student = "student/student.safetensors"
    assert same(*(load_file(Path(trial_folder(r, config)) / student) for r in (whole, broken)))
