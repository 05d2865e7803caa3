"""How a driver grows with the number of its trials: N one-step trials, really run.

    PYTHONPATH=. python benchmarks/many_trials.py                  # N = 200, 500, 1000, 2000
    PYTHONPATH=. python benchmarks/many_trials.py --trials 20 40 --cpus 2

For each N: wall seconds, CPU seconds and peak memory of the driver's process. The exponent of a
cost is the slope of log(cost) over log(N): 1 is linear. The driver's costs of an empty sweep
(imports, Ray) are in each N, so small N show an exponent below 1. The process that uploads to
MLflow is another one and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

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


def measure(trials: int, cpus: int) -> dict[str, float]:
    """{seconds, cpu_seconds, mib} of a sweep of so many trials. Raises: RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder, "many.yaml")
        grid.write_text(GRID.format(trials=trials))
        command = [sys.executable, "-m", "sweep.run", "--grid", str(grid), "--cpus", str(cpus)]
        start = time.monotonic()
        with Path(folder, "log").open("w+") as log:
            child = subprocess.Popen(
                [*command, "--out", f"{folder}/run"], stdout=subprocess.DEVNULL, stderr=log
            )
            driver = psutil.Process(child.pid)
            used, peak = 0.0, 0
            while child.poll() is None:
                try:
                    times, memory = driver.cpu_times(), driver.memory_info()
                except psutil.Error:
                    break
                used, peak = times.user + times.system, max(peak, memory.rss)
                time.sleep(0.2)
            seconds = time.monotonic() - start
            if child.wait() != 0:
                log.seek(0)
                raise RuntimeError(f"{trials} trials: {log.read()[-1000:]}")
        done = len(list(Path(folder, "run", "trials").glob("*/result.json")))
        if done != trials:
            raise RuntimeError(f"{done} results of {trials} trials")
    return {"seconds": seconds, "cpu_seconds": used, "mib": peak / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[200, 500, 1000, 2000])
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rows = []
    for trials in options.trials:
        row = {"trials": trials, **measure(trials, options.cpus)}
        rows.append(row)
        each = {name: round(value / trials, 4) for name, value in row.items() if name != "trials"}
        print(json.dumps(row | {"of each trial": each}), flush=True)
    if len(rows) > 1:
        counts = np.log([row["trials"] for row in rows])
        for name in ("seconds", "cpu_seconds", "mib"):
            slope = np.polyfit(counts, np.log([row[name] for row in rows]), 1)[0]
            print(f"{name}: exponent {slope:.2f}")


if __name__ == "__main__":
    main()
