"""Checks that need a GPU, in a few minutes: half precision, exact resume, step times.

    PYTHONPATH=. python benchmarks/gpu_check.py    # in the root of the repository

1. bf16 and fp16 against fp32: trials on digits that differ in `precision` alone; for each measure
   the mean difference over seeds beside the standard deviation over the seeds of fp32 (ddof = 1).
2. Exact resume: a trial that SIGTERM ends inside its second epoch and that is then resumed must
   give the same student, bit for bit, as an undisturbed one, with torch's deterministic
   algorithms. In fp32, in fp16, and with CUDA graphs.
3. Step times: forward, objective, backward and Adam, in ms, median of 20 after 5, batches of 64,
   at 32 and 224 pixels, for width 1, 2, 4; in fp32, in bf16, in bf16 as CUDA graphs.

Exit status 1 where 1 or 2 does not hold, 2 without a GPU. Needs neither Ray nor MLflow.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from shards.building.build import build
from shards.building.request import Request
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.engines.single import Single
from trainers.objectives import make_objective
from trainers.results.folder import trial_folder
from trainers.runner import run_trial
from trainers.students import build_student
from trainers.training.compile import apply_performance_options
from trainers.training.optim import OPTIMIZERS
from trainers.training.preemption import PreemptedError

FIELDS: dict[str, Any] = {
    "dataset": "digits", "teacher": "embedded", "student": "width:1", "epochs": 10,
    "arm": "noise:0.1", "views": 2, "test_arms": ("noise:0.1",), "test_views": 2,
}  # fmt: skip
# Of dozens of measures some differ by more than a standard deviation by chance, so the exit status
# depends on these three alone.
JUDGED = ("test/linear/paper/accuracy", "test/rank/effective", "test/cosine_to_teacher")
DIM = 512


def make_bank(folder: str, **sizes: Any) -> dict[str, Any]:
    """Build a bank of digits in `folder`; returns the fields of trials on it."""
    request = Request(
        dataset="digits", teachers=("embedded",), arms=("noise:0.1",), views=2,
        test_arms=("noise:0.1",), test_views=2, **sizes,
    )  # fmt: skip
    build(request, folder)
    return FIELDS | sizes


def precision_differences(
    fields: dict[str, Any], bank: str, root: str, device: str, seeds: int, half: str = "bf16"
) -> dict[str, tuple[float, float]]:
    """{measure: (mean of `half` - fp32 over seeds, standard deviation of fp32 over seeds)}"""
    found: dict[str, list[dict[str, float]]] = {"fp32": [], half: []}
    for precision, metrics in found.items():
        for seed in range(seeds):
            config = make_config(fields | {"precision": precision, "seed": seed})
            result = run_trial(config, bank, root, device=device)
            assert result is not None  # None on ranks other than the first, and there is only one
            metrics.append(result.metrics)
    differences = {}
    for name in found["fp32"][0]:
        full, less = ([m[name] for m in found[p]] for p in ("fp32", half))
        gaps = [b - a for a, b in zip(full, less, strict=True)]
        differences[name] = (statistics.mean(gaps), statistics.stdev(full))
    return differences


def resumes_exactly(fields: dict[str, Any], bank: str, root: str, device: str) -> bool:
    """Whether a trial resumed after SIGTERM gives the same student, bit for bit.

    It is interrupted one step into its second epoch and compared with an undisturbed one.
    """
    config = make_config(fields | {"ema": 0.9, "seed": 7})

    def preempt(values: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # the trial ends after its next step, state saved

    interrupted, whole = (str(Path(root) / name) for name in ("interrupted", "whole"))
    try:
        run_trial(config, bank, interrupted, preempt, device=device, save_seconds=0)
    except PreemptedError as error:
        print(f"  {error}")
    folders = (interrupted, whole)
    resumed, undisturbed = (run_trial(config, bank, folder, device=device) for folder in folders)
    assert resumed is not None
    assert undisturbed is not None
    files = [Path(trial_folder(f, config)) / "student/student.safetensors" for f in folders]
    one, other = (file.read_bytes() for file in files)
    return one == other and resumed.metrics == undisturbed.metrics


def step_ms(
    config: TrialConfig, side: int, device: torch.device, steps: int = 20, warm: int = 5
) -> float:
    """Median time, in ms, of a whole step on random images (B, 3, side, side) and targets.

    steps: how many are timed, after `warm` others.
    """
    model = build_student(config.student, DIM, side, 0)
    apply_performance_options(model, config, device, side)
    optimizer = OPTIMIZERS[config.optimizer](model, config)
    engine = Single(device)
    forward = engine.prepare(model, optimizer, config)
    images_BCHW = torch.randn(config.batch_size, 3, side, side, device=device)
    teacher_BD = torch.nn.functional.normalize(torch.randn(config.batch_size, DIM, device=device))
    objective = make_objective(config.objective, config.objective_fields)
    times = []
    for _ in range(warm + steps):
        start = time.perf_counter()
        loss = objective(forward(images_BCHW), teacher_BD)
        engine.backward(loss, last=True)
        float(engine.step())  # waits for the device
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[warm:])


def deterministic() -> None:
    """Use deterministic algorithms. To be called before CUDA is first used, when cuBLAS reads its
    setting.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device is available; nothing was checked", file=sys.stderr)
        return 2
    deterministic()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTIL_CACHE"] = str(Path(folder) / "cache")
        bank, root = str(Path(folder) / "bank"), str(Path(folder) / "runs")
        fields = make_bank(bank)
        for half in ("bf16", "fp16"):
            print(f"{half} - fp32, mean over 5 seeds, beside the standard deviation over seeds")
            found = precision_differences(fields, bank, root, "cuda", 5, half)
            for name, (gap, sd) in sorted(found.items()):
                beyond = abs(gap) > sd
                good &= not (beyond and name in JUDGED)
                print(
                    f"  {name:40s} {gap:+.5f}  sd {sd:.5f}" + ("   more than sd" if beyond else "")
                )
        for way in ({}, {"precision": "fp16"}, {"cuda_graphs": True}):
            exact = resumes_exactly(fields | way, bank, root, "cuda")
            good &= exact
            print(f"exact resume {way or ''}: {'the same bytes' if exact else 'DIFFERENT bytes'}")
    torch.use_deterministic_algorithms(False)
    device = torch.device("cuda")
    print("ms a step, batch 64:      fp32      bf16      bf16 as graphs")
    ways: list[dict[str, Any]] = [
        {}, {"precision": "bf16"}, {"precision": "bf16", "cuda_graphs": True},
    ]  # fmt: skip
    for side in (32, 224):
        for width in (1, 2, 4):
            fields = FIELDS | {"student": f"width:{width}"}
            times = [step_ms(make_config(fields | way), side, device) for way in ways]
            print(f"  {side:3d} px, width:{width}   " + "".join(f"{ms:10.2f}" for ms in times))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
