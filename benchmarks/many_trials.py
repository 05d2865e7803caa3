"""How a sweep grows with the number of its trials: N one-step trials, really run.

    python benchmarks/many_trials.py                      # N = 200, 500, 1000 and 2000
    python benchmarks/many_trials.py --trials 20 60       # a short look

For each N: wall seconds; CPU seconds and memory of the driver, and of the process that uploads to
MLflow; CPU seconds of `sweep.status` on the store. Those of a sweep of two trials (imports, Ray's
start, the bank) are subtracted before an exponent is fitted, the slope of log(cost) over log(N),
so that they hide no growth: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ratios import Ratio, finish
from sampled import DRIVER, UPLOAD, run_sampled

GRID = """\
name: many
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  train_samples: 64
  test_samples: 20
  batch_size: 64
  duration: 1 steps
  probes: [spectrum]
  test_arms: []
  adapt_arms: []
seeds: {trials}
"""
BASE = 2  # trials of the sweep whose costs are those of any sweep
LINEAR = 1.15  # largest exponent; that of N log N between 200 and 2,000 is 1.15
CPU_EACH = 0.1  # CPU seconds of the driver for each trial
COSTS = {
    "driver": "CPU seconds of the driver",
    "upload": "CPU seconds of the upload to MLflow",
    "status": "CPU seconds of sweep.status",
}


def measure(trials: int, cpus: int) -> dict[str, float]:
    """Costs of a sweep of so many trials: COSTS, wall seconds, and MiB. Raises: RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder, "many.yaml")
        grid.write_text(GRID.format(trials=trials))
        run = f"{folder}/run"
        sampled = run_sampled(
            ["--grid", str(grid), "--cpus", str(cpus), "--out", run], Path(folder, "log")
        )
        done = len(list(Path(run, "trials").glob("*/result.json")))
        if done != trials:
            raise RuntimeError(f"{done} results of {trials} trials")
        return {
            "trials": trials,
            "seconds": sampled.seconds,
            "driver": sampled.cpu[DRIVER],
            "upload": sampled.cpu[UPLOAD],
            "status": cpu_of([sys.executable, "-m", "sweep.status", run, "--json"]),
            "driver_mib": sampled.mib[DRIVER],
            "upload_mib": sampled.mib[UPLOAD],
        }


def cpu_of(command: list[str]) -> float:
    """CPU seconds of a command, however it ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=False, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios_of(base: dict[str, float], rows: list[dict[str, float]]) -> list[Ratio]:
    """Exponents of the costs over `rows`, and the driver's cost of a trial against its limit."""
    counts = np.array([row["trials"] - base["trials"] for row in rows])
    found: list[Ratio] = []
    for name, what in COSTS.items():
        more = np.array([row[name] - base[name] for row in rows])
        listed = ", ".join(
            f"{cost:.1f} s for {count}" for cost, count in zip(more, counts, strict=True)
        )
        slope = float(np.polyfit(np.log(counts), np.log(np.maximum(more, 0.01)), 1)[0])
        found.append(Ratio(f"exponent of the {what} over trials", slope, LINEAR, False, listed))
    last, count = rows[-1], counts[-1]
    each = (last["driver"] - base["driver"]) / count
    memory = (last["driver_mib"] - base["driver_mib"]) / count
    wall = last["seconds"] / last["trials"]
    text = f"{each:.3f} CPU s, {memory:.2f} MiB, {wall:.2f} s of wall clock"
    what = f"CPU seconds of the driver for each of {count:g} trials against {CPU_EACH:g} s"
    return [*found, Ratio(what, each / CPU_EACH, 1.0, False, text)]


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 500, 1000, 2000])
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    for trials in [BASE, *options.trials]:
        rows.append(measure(trials, options.cpus))
        print(json.dumps({name: round(value, 2) for name, value in rows[-1].items()}), flush=True)
    return finish(ratios_of(rows[0], rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
