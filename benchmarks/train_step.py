"""A training step against the paper's notebook, and against a bare loop, in one run.

    python benchmarks/train_step.py                  # widths 1, 2, 4 at 224 pixels, 1 at 32
    python benchmarks/train_step.py 2                # one width at both sizes

All ways train the paper's student on random images of CIFAR's size, batch 64, one thread, cosine
loss, Adam. Reported are CPU seconds a step (user and system), so that other programs on the
machine weigh little; the median over turns of some steps, after a first one that is not counted.
Now and then the heap grows, or a checkpoint is saved (see benchmarks/durability.py): the median
leaves that out.

* notebook: arXiv 2603.06698 v1 as its authors published it, see benchmarks/notebook.py. At 32
  pixels, which the paper has not, the student takes the unresized images, the teacher resized ones.
* trial: `trainers.training.loop.train` on stored embeddings, in fp32 and, where the CPU has
  instructions for it, in bf16; with checkpoints, reports and the settings of the commands.
* compiled: a trial of width 1 in fp32 with the field `compile`; stderr says what compiling takes.
* bare loop: the same student, optimiser and layout on tensors that are in memory already,
  normalised: the limit of what a trial can reach in fp32. Its steps take turns with the trial's,
  for the pace of a virtual machine drifts by more in a minute than the two may differ. Where a step
  is short this is done in several processes, of which the median counts: where the heap of a
  process has put the activations of the one and the other moves their ratio by more than the
  limits.
* inputs: what a trial's loop does to prepare a batch: read, resize, normalise.

Each way but the bare loop runs in a process of its own, for the allocator is a setting of the
process. Two sizes are measured at a time where there are two cores, so that every way, as a trial
of a sweep, shares the machine's memory with another process.
Ends with 1 where a trial is less than WANTED times as fast as the notebook, its loop takes more
than LOOP, or the system more than SYSTEM of a step at 224 pixels.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from ratios import Ratio, finish
from torch.nn.functional import cosine_similarity, normalize

from shards.support.memory import keep_freed_memory

if TYPE_CHECKING:
    from trainers.training.data import Data

BATCH, DIM, NATIVE = 64, 512, 32
WANTED = {1: 9.0, 2: 5.0, 4: 3.5}  # times the notebook at 224 pixels
LOOP = {224: 1.01, 32: 1.03}  # times the bare loop, at most
SYSTEM = {224: 0.05}  # share of a step's CPU time that the system may take
SIZES = ((224, 1), (224, 2), (224, 4), (32, 1))  # (pixels, width)
# By width: processes in which a trial in fp32 and the bare loop take turns, and the turns that are
# counted in each of them.
PROCESSES = {1: 3, 2: 2, 4: 1}
TURNS = {1: 4, 2: 3, 4: 3}
NOTEBOOK = {1: 2, 2: 2, 4: 1}  # steps that are counted, by width


def images(count: int) -> np.ndarray:
    """uint8 (count, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, NATIVE, NATIVE, 3), dtype=np.uint8)


def turn(step: Callable[[], object], steps: int) -> float:
    """Mean CPU seconds of `step()`."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def notebook_step(side: int, width: int) -> float:
    from notebook import Notebook

    pictures = [Image.fromarray(image) for image in images(BATCH)]
    paper = Notebook(width, native=side == NATIVE)
    counted = NOTEBOOK[width]
    return median([turn(lambda: paper.step(pictures), 1) for _ in range(1 + counted)][1:])


def steps_of(side: int, width: int) -> int:
    """Steps of a turn, which is an epoch of a trial: few where a step takes seconds."""
    if side == NATIVE:
        return 60
    return 2 if width == 1 else 1


def made_data(side: int, samples: int) -> Data:
    """Random images with stored embeddings, in memory."""
    from notebook import MEAN, STD

    from shards.arms import make_arm
    from shards.bank.splits import Split
    from shards.teachers.preprocess import Preprocess
    from trainers.training.data import Data

    rng = np.random.default_rng(1)
    unit = rng.normal(size=(samples, 1, DIM)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    arm = make_arm("clean")
    split = Split(
        keys=tuple(f"{i:08d}" for i in range(samples)),
        images_NHWC=images(samples),
        labels_N=np.zeros(samples, np.int64),
        params_NVP=np.zeros((samples, 1, len(arm.columns)), np.int64),
        embedding_NVD=unit.astype(np.float16),
        norm_NV=np.ones((samples, 1), np.float32),
    )
    return Data(split, arm, Preprocess(size=side, mean=MEAN, std=STD), torch.device("cpu"))


def inputs(side: int, width: int) -> float:
    """What a trial's step takes to prepare its batch, of any student."""
    samples = BATCH * steps_of(side, width)
    data = made_data(side, samples)
    parts = torch.arange(samples).split(BATCH)
    return median([turn(iter(data.batches(parts, 0)).__next__, len(parts)) for _ in range(4)][1:])


def trial(
    side: int,
    width: int,
    precision: str = "fp32",
    compiled: bool = False,
    turns: int = 3,
    after_turn: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """(turns, 2): CPU seconds of a step, and those of the system, in each of so many turns.

    after_turn: called after each; its time is not counted.
    """
    from trainers.canonical import make_config
    from trainers.engines.single import Single
    from trainers.objectives import make_objective
    from trainers.students import build_student
    from trainers.training.checkpoint import Checkpoints, owner_of
    from trainers.training.compile import apply_performance_options
    from trainers.training.loop import train
    from trainers.training.state import Saver

    config = make_config(
        {
            "dataset": "digits",
            "teacher": "embedded",
            "student": f"width:{width}",
            "optimizer": "adam",
            "batch_size": BATCH,
            "epochs": 1 + turns,
            "precision": precision,
            "compile": compiled,
        }
    )
    student = build_student(config.student, DIM, side, 0)
    device = torch.device("cpu")
    apply_performance_options(student, config, device, side)
    data = made_data(side, BATCH * steps_of(side, width))
    objective = make_objective(config.objective, config.objective_fields)
    apart = np.zeros(3)

    def now() -> np.ndarray:
        """Seconds of the trial alone: wall-clock, CPU, and of those the system's."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return np.array([time.monotonic(), used.ru_utime + used.ru_stime, used.ru_stime]) - apart

    at = [now()[1:]]

    def report(values: dict[str, object]) -> None:
        before = now()
        at.append(before[1:])
        after_turn()
        apart[:] += now() - before

    with tempfile.TemporaryDirectory() as folder, Single(device) as engine:
        checkpoints = Checkpoints(folder, owner_of(config, "benchmark"))
        saver = Saver(checkpoints, clock=lambda: float(now()[0]))
        train(config, student, objective, data, engine, saver, report)
    first, counted = np.split(np.diff(at, axis=0), [1])
    if compiled:
        print(f"compiling: {first[0, 0] - median(counted[:, 0]):.1f} CPU s", file=sys.stderr)
    return counted / steps_of(side, width)


def trial_and_bare(side: int, width: int) -> dict[str, float]:
    """A trial in fp32 and its system time, a bare loop in turns with it, the ratio of the two.

    Each turn of the trial is compared with the mean of the bare loop's before and after it.
    """
    from trainers.students import build_student

    student = build_student(f"width:{width}", DIM, side, 0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    images_BCHW = torch.randn(BATCH, 3, side, side).to(memory_format=torch.channels_last)
    target = normalize(torch.randn(BATCH, DIM), dim=-1)

    def step() -> None:
        loss = (1 - cosine_similarity(student(images_BCHW), target, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    turns: list[float] = []
    loop = trial(
        side,
        width,
        turns=TURNS[width],
        after_turn=lambda: turns.append(turn(step, steps_of(side, width))),
    )
    around = [(before + after) / 2 for before, after in itertools.pairwise(turns)]
    seconds, system = loop.T.tolist()
    ratio = median(ours / theirs for ours, theirs in zip(seconds, around, strict=True))
    found = {"trial": median(seconds), "bare": median(turns[1:]), "ratio": ratio}
    return found | {"system": median(system)}


WAYS: dict[str, Callable[[int, int], float | dict[str, float]]] = {
    "notebook": notebook_step,
    "trial": trial_and_bare,
    "trial bf16": lambda side, width: median(trial(side, width, "bf16")[:, 0]),
    "compiled": lambda side, width: median(trial(side, width, compiled=True)[:, 0]),
    "inputs": inputs,
}


def in_a_process(way: str, side: int, width: int) -> dict[str, float]:
    """{way: CPU seconds a step}, see `trial_and_bare` for what else it has."""
    command = [sys.executable, __file__, "--one", way, str(side), str(width)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(found)


def one(way: str, side: int, width: int) -> None:
    torch.set_num_threads(1)
    if way != "notebook":  # which runs as PyTorch does by default
        keep_freed_memory()
    found = WAYS[way](side, width)
    print(json.dumps(found if isinstance(found, dict) else {way: found}))


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] == "--one":
        one(arguments[1], int(arguments[2]), int(arguments[3]))
        return 0
    widths = [int(width) for width in arguments]
    sizes = [(side, width) for width in widths for side in (224, 32)] or SIZES
    longest_first = sorted(sizes, key=lambda size: -size[1])
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pairs:
        found = dict(zip(longest_first, pairs.map(measure, longest_first), strict=True))
    return finish([ratio for size in sizes for ratio in found[size]])


def measure(size: tuple[int, int]) -> list[Ratio]:
    """All ways of one size, one after the other. size: (pixels, width)."""
    side, width = size
    left_out = ["compiled"] * (width != 1) + ["trial bf16"] * (not has_bf16())
    row: dict[str, float] = {}
    for way in WAYS:
        if way not in left_out:
            times = PROCESSES[width] if way == "trial" else 1
            found = [in_a_process(way, side, width) for _ in range(times)]
            row |= {name: median(one[name] for one in found) for name in found[0]}
    listed = ", ".join(f"{way} {row[way]:.3f}" for way in (*WAYS, "bare") if way in row)
    print(f"{side} pixels, width {width}: CPU seconds a step: {listed}", flush=True)
    return ratios_of(row, side, width)


def ratios_of(row: dict[str, float], side: int, width: int) -> list[Ratio]:
    """row: {way: CPU seconds a step}, `ratio` and `system`, see `trial_and_bare`."""
    size = f"{side} pixels, width {width}"
    fastest = min((way for way in row if way in ("trial", "trial bf16")), key=row.__getitem__)
    precision = "bf16" if fastest == "trial bf16" else "fp32"
    both = f"{row[fastest]:.3f} ({precision}) against {row['notebook']:.3f} CPU s"
    preparing = f"to which the preparation of a batch adds {row['inputs']:.4f}"
    found = [
        Ratio(
            f"a step of a trial against the paper's notebook, {size}",
            row["notebook"] / row[fastest],
            WANTED.get(width) if side == 224 else None,
            measured=f"{both}; of a bare loop in fp32 {row['notebook'] / row['bare']:.3g}",
        ),
        Ratio(
            f"a step of a trial in fp32 against a bare loop, {size}",
            row["ratio"],
            LOOP[side],
            at_least=False,
            measured=f"{row['trial']:.4f} against {row['bare']:.4f} CPU s, {preparing}",
        ),
        Ratio(
            f"system time of a step of a trial in fp32, {size}, as a share",
            row["system"] / row["trial"],
            SYSTEM.get(side),
            at_least=False,
            measured=f"{row['system']:.4f} of {row['trial']:.4f} CPU s",
        ),
    ]
    if "compiled" in row:
        what = f"a step of a trial in fp32 with torch.compile against without, {size}"
        both = f"{row['compiled']:.4f} against {row['trial']:.4f} CPU s"
        found.append(Ratio(what, row["trial"] / row["compiled"], measured=both))
    return found


def has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; where it does not, bf16 is converted and slower."""
    information = Path("/proc/cpuinfo")
    return information.exists() and any(
        flag in information.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
