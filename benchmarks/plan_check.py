"""Is a dry run right? Its core-hours against the CPU time of the run itself, measured right after.

    python benchmarks/plan_check.py                                  # the demo's grid with one seed
    python benchmarks/plan_check.py --grid quick --cpus 2

CPU time is compared, not wall-clock, so that other programs on the machine weigh on both sides
alike. The run is all of `sweep.run`: start, build, trials, journal, upload, table and report.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ratios import Ratio, finish
from sampled import DRIVER, UPLOAD, WORKERS, run_sampled

WITHIN = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--grid", default="demo")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = ["--grid", options.grid, "--seeds", str(options.seeds), "--cpus", str(options.cpus)]
        same += ["--out", f"{folder}/run"]
        command = [sys.executable, "-m", "sweep.run", *same, "--dry-run", "--json", "--calibrate"]
        plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        hours = {name: 3600 * part for name, part in plan["estimate"]["hours"].items()}
        print(f"planned, s: { {name: round(part, 1) for name, part in hours.items()} }", flush=True)
        ran = run_sampled(same, Path(folder, "log"))
        print(f"actual, s: { {name: round(part, 1) for name, part in ran.cpu.items()} }")
        planned, actual = sum(hours.values()), sum(ran.cpu.values())
        wall = plan["estimate"]["wall_seconds"]
    text = (
        f"{planned:.0f} against {actual:.0f} CPU s (driver {ran.cpu[DRIVER]:.0f}, upload "
        f"{ran.cpu[UPLOAD]:.0f}, trials {ran.cpu[WORKERS]:.0f}); wall-clock {wall:.0f} planned, "
        f"{ran.seconds:.0f} s"
    )
    apart = max(planned, actual) / min(planned, actual)
    return finish(
        [Ratio("planned CPU time against actual, either way", apart, WITHIN, False, text)]
    )


if __name__ == "__main__":
    sys.exit(main())
