"""A sweep from Python: run what is missing, and compare two arms.

python examples/run_a_sweep.py examples/small.yaml runs/small
"""

from __future__ import annotations

import sys

import distilsweep


def main(grid: str, out: str) -> None:
    # A grid is a name (`demo`), a file, or a mapping with the content of such a file. Trials that
    # are finished are not run again.
    study = distilsweep.run(grid, out)
    print(f"axes: {study.axes}")
    for note in study.notes:
        print(f"note: {note}")
    means = study.trials.pivot_table("test/rank/effective", "arm", aggfunc=["mean", "std", "count"])
    print(means)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ("examples/small.yaml", "runs/small")))
