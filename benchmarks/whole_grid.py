"""A whole small grid, with probes, MLflow and checkpoints, against the way of the paper's notebook.

    python benchmarks/whole_grid.py
    python benchmarks/whole_grid.py --seeds 2 --images 128      # a short look
    python benchmarks/whole_grid.py --all-probes    # a trial's default ones: more than the notebook

One student of width 1 on images of CIFAR's size, resized to 224 pixels, a ViT-B/32 with random
weights as teacher, 5 epochs, several seeds. Students are measured as in the notebook: rank, probe
accuracy without noise and under three noises, InfoNCE. The sweep chooses fp32 or bf16 itself.
It is run whole: `sweep.run` from its start, with the bank's build, to its table and report. The
notebook trains one epoch of one seed and evaluates it, with as many threads as there are cores; its
steps are all the same work, so its time for the grid is that of an epoch times epochs and seeds,
and that of an evaluation times seeds. Compared is wall-clock, and CPU seconds beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from notebook import BATCH, Notebook
from PIL import Image
from ratios import Ratio, finish
from sampled import run_sampled

WANTED, EPOCHS, CLASSES = 10.0, 5, 4
GRID = """\
name: whole
fixed:
  dataset: folder:{folder}
  teacher: open_clip:ViT-B-32:none
  student: width:1
  input: teacher
  precision: auto
  epochs: {epochs}
  test_arms: [noise_normalised:0.05, noise_normalised:0.1, noise_normalised:0.2]
  test_views: 1
{measured}seeds: {seeds}
"""
MEASURED = """\
  probes: [spectrum, linear, robustness, infonce]
  adapt_arms: []
"""


def make_images(root: Path, train: int, test: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            folder = root / split / f"class {i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            noise_HWC = rng.integers(0, 128, (32, 32, 3)) + 32 * (i % CLASSES)
            Image.fromarray(noise_HWC.astype(np.uint8)).save(folder / f"{i:05d}.png")


def read(folder: Path) -> tuple[list[Image.Image], np.ndarray]:
    files = sorted(folder.glob("*/*.png"))
    return [Image.open(file).convert("RGB") for file in files], np.array(
        [int(file.parent.name.split()[1]) for file in files]
    )


def by_notebook(images: Path, seeds: int) -> tuple[float, float]:
    """(Wall-clock, CPU) seconds of the whole grid."""
    train, test = read(images / "train"), read(images / "test")
    paper = Notebook(1)
    paper.step(train[0][:BATCH])  # allocations and first calls
    at = [np.array([time.perf_counter(), time.process_time()])]
    for start in range(0, len(train[0]) - BATCH + 1, BATCH):
        paper.step(train[0][start : start + BATCH])
    at.append(np.array([time.perf_counter(), time.process_time()]))
    paper.evaluate(*train, *test)
    at.append(np.array([time.perf_counter(), time.process_time()]))
    epoch, evaluation = at[1] - at[0], at[2] - at[1]
    wall, cpu = seeds * (EPOCHS * epoch + evaluation)
    return float(wall), float(cpu)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--images", type=int, default=512, help="of train; a quarter more of test")
    parser.add_argument("--all-probes", action="store_true")
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DISTIL_CACHE"] = f"{folder}/cache"  # in which nothing was measured before
        make_images(folder / "images", options.images, options.images // 4)
        grid = folder / "whole.yaml"
        grid.write_text(
            GRID.format(
                folder=folder / "images",
                epochs=EPOCHS,
                measured="" if options.all_probes else MEASURED,
                seeds=options.seeds,
            )
        )
        wall, cpu = by_notebook(folder / "images", options.seeds)
        print(f"notebook: {wall:.0f} s of wall-clock, {cpu:.0f} CPU s", flush=True)
        arguments = ["--grid", str(grid), "--cpus", str(options.cpus), "--out", f"{folder}/run"]
        ran = run_sampled(arguments, folder / "log")
    used = sum(ran.cpu.values())
    steps = options.seeds * EPOCHS * (options.images // BATCH)
    what = f"a sweep of {options.seeds} seeds, {steps} steps at 224 pixels, against the notebook"
    walls = f"{ran.seconds:.0f} against {wall:.0f} s on {options.cpus} cores"
    return finish(
        [
            Ratio(f"wall-clock of {what}", wall / ran.seconds, WANTED, measured=walls),
            Ratio(f"CPU seconds of {what}", cpu / used, measured=f"{used:.0f} against {cpu:.0f} s"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
