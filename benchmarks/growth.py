"""How time and memory grow with samples, dimensions, classes and planned trials.

    python benchmarks/growth.py
    python benchmarks/growth.py --only "spectrum over samples"

Each size is measured in a process of its own on synthetic unit vectors, one thread: CPU seconds and
the peak of resident memory above that of the input. The exponent of a cost is the slope of
log(cost) over log(size) between the two largest sizes, where constant costs weigh least: 1 is
linear. Ends with 1 where an exponent of time is above LINEAR although the mathematics is linear.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from forked import in_a_fork, with_one_thread
from ratios import Ratio, finish

from shards.measures.infonce import full_infonce
from shards.measures.knn import neighbour_labels
from shards.measures.linear_probe import fit
from shards.measures.resampling import permutation, rank_intervals
from shards.measures.similarity import debiased_cka
from shards.measures.spectrum import centred_eigenvalues
from sweep.planning.expand import expand
from sweep.planning.grid import read_grid

LINEAR = 1.1
MIB = 1 << 20
CLASSES = 10

Action = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is measured at which sizes; `prepare(size)` makes the input and returns the action.

    linear: whether its cost should be proportional to the size.
    """

    prepare: Callable[[int], Action]
    sizes: tuple[int, ...]
    linear: bool = True


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 (count, width) unit vectors in a cone, with a decaying spectrum."""
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((count, width), dtype=np.float32)
    x_ND *= np.arange(1, width + 1, dtype=np.float32) ** -0.5
    x_ND[:, 0] += 1
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def labelled(count: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows around one centre a class, and their labels."""
    labels_N = np.arange(count, dtype=np.int64) % classes
    x_ND = rows(count, width) + 0.5 * rows(classes, width, seed=1)[labels_N]
    return x_ND, labels_N


def spectrum(count: int, width: int = 128) -> Action:
    x_ND = rows(count, width)
    return lambda: centred_eigenvalues(x_ND)


def rank_interval(count: int) -> Action:
    x_ND = rows(count, 128)
    return lambda: rank_intervals(x_ND, 0)


def cka(count: int) -> Action:
    x_ND, y_ND = rows(count, 128), rows(count, 128, seed=1)
    return lambda: debiased_cka(x_ND, y_ND)


def neighbours(count: int) -> Action:
    x_ND, labels_N = labelled(count, 128, CLASSES)
    test_ND = rows(1000, 128, seed=2)
    return lambda: neighbour_labels(x_ND, labels_N, test_ND)


def infonce(count: int) -> Action:
    x_ND, y_ND = rows(count, 128), rows(count, 128, seed=1)
    return lambda: full_infonce(x_ND, y_ND)


def linear_probe(count: int, classes: int = CLASSES) -> Action:
    x_ND, labels_N = labelled(count, 128, classes)
    return lambda: fit(x_ND, labels_N)


def sample_order(count: int) -> Action:
    return lambda: permutation(count, 0)


def plan(trials: int) -> Action:
    fixed = "{dataset: digits, teacher: embedded, student: 'width:1'}"
    text = f"name: many\nfixed: {fixed}\nseeds: {trials}\n"
    return lambda: [config.identity for config in expand(read_grid(text, "growth", "many"))]


SAMPLES = (1_000, 10_000, 100_000, 1_000_000)
CASES = {
    "spectrum over samples": Case(spectrum, SAMPLES),
    "intervals of ranks over samples": Case(rank_interval, SAMPLES),
    "CKA over samples": Case(cka, SAMPLES),
    "nearest neighbours of 1,000 images over train samples": Case(neighbours, SAMPLES),
    "linear probe over samples": Case(linear_probe, SAMPLES[:3]),
    "linear probe over classes": Case(lambda n: linear_probe(20_000, n), (10, 100, 1000)),
    "sample order over samples": Case(sample_order, SAMPLES, linear=False),  # a sort
    "InfoNCE with all samples as negatives over samples": Case(
        infonce, (1_000, 4_000, 16_000), linear=False
    ),
    "spectrum over dimensions": Case(lambda n: spectrum(20_000, n), (128, 512, 2048), linear=False),
    "planning over trials": Case(plan, (10, 100, 1_000, 10_000)),
}


def resident(field: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, or VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(name: str, size: int) -> dict[str, float]:
    """{seconds: median CPU seconds, mib: peak above the input} of one case at one size."""
    case = CASES[name]
    CASES[name].prepare(case.sizes[0])()  # first calls
    action = case.prepare(size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before = resident("VmRSS")
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 5:
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return {"seconds": float(np.median(seconds)), "mib": (resident("VmHWM") - before) / MIB}


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """Slope of log(cost) over log(size) between the two largest sizes."""
    return math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE")
    options = parser.parse_args()
    ratios: list[Ratio] = []
    for name in options.only or CASES:
        case = CASES[name]
        found = [in_a_fork(measure, name, size) for size in case.sizes]
        listed = ", ".join(
            f"{one['seconds']:.3g} s and {max(one['mib'], 0):.0f} MiB for {size:,}"
            for size, one in zip(case.sizes, found, strict=True)
        )
        slope = exponent(case.sizes, [one["seconds"] for one in found])
        wanted = LINEAR if case.linear else None
        ratios.append(Ratio(f"exponent of {name}", slope, wanted, False, listed))
        print(ratios[-1], listed, sep=": ", flush=True)
    return finish(ratios)


if __name__ == "__main__":
    with_one_thread()
    sys.exit(main())
