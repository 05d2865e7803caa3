"""The scheduler at scale, simulated: utilisation, work done twice and the tail under reclaims.

    python benchmarks/scale.py                        # 10,000 trials, 1,000 GPUs, 0 to 20 % an hour
    python benchmarks/scale.py --trials 2000 --devices 2 --seconds 0 --fixed 0.7 --rates 0
    python benchmarks/scale.py --figure scale.svg

A discrete-event simulation of what `sweep.running` does: one driver that starts trials one after
another, longest first; a device is one GPU; a reclaimed one is replaced after a set-up, and its
trial goes on elsewhere from its last checkpoint. Overheads are options; their defaults are those of
`sweep.planning.calibration.Overhead` and of LOG.md. Not in it: slow networks, and limits of the
cloud on how fast machines can be had.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What is simulated. Times are in seconds.

    rate: share of the devices that are reclaimed in an hour. seconds: of a trial's training on
    average; they are spread log-normally with `spread`. fixed: of each trial besides. save: between
    checkpoints. notice: share of the reclaims that the trial hears of in time, and loses nothing.
    setup: until a replacement takes a trial. driver: of the driver for each start of a trial.
    """

    trials: int
    devices: int
    rate: float
    seconds: float
    spread: float
    fixed: float
    save: float
    notice: float
    setup: float
    driver: float
    start: float


@dataclass(frozen=True)
class Found:
    """wall: seconds in all. busy: device-seconds of useful work over those that were paid.

    redone: share of the work done twice. tail: seconds from the first idle device to the end.
    waited: share of the device time that was spent waiting for the driver.
    """

    wall: float
    busy: float
    redone: float
    tail: float
    waited: float


def simulate(setting: Setting, seed: int = 0) -> Found:
    rng = random.Random(seed)
    mean = max(setting.seconds, 1e-9)
    work = sorted(
        (
            setting.fixed + mean * rng.lognormvariate(-(setting.spread**2) / 2, setting.spread)
            if setting.seconds
            else setting.fixed
            for _ in range(setting.trials)
        ),
    )  # the longest is popped first
    useful = sum(work)
    free = [(setting.start, device) for device in range(setting.devices)]
    heapq.heapify(free)
    driver, redone, waited, ends = setting.start, 0.0, 0.0, list[float]()
    first_idle = 0.0
    gone: list[tuple[float, float]] = []  # (when it may go on, seconds left) of reclaimed trials
    while work or gone:
        at, device = heapq.heappop(free)
        if gone and (gone[0][0] <= at or not work):
            when, left = heapq.heappop(gone)
            at = max(at, when)
        else:
            left = work.pop()
        begins = max(at, driver) + setting.driver
        driver = begins
        waited += begins - at
        reclaimed = rng.expovariate(setting.rate / 3600) if setting.rate else float("inf")
        if reclaimed >= left:
            ends.append(begins + left)
            heapq.heappush(free, (begins + left, device))
        else:
            lost = 0.0 if rng.random() < setting.notice else reclaimed % setting.save
            redone += lost
            heapq.heappush(gone, (begins + reclaimed, left - reclaimed + lost + setting.fixed))
            useful += setting.fixed
            heapq.heappush(free, (begins + reclaimed + setting.setup, device))
        if not work and not first_idle:
            first_idle = min(when for when, _ in free)
    wall = max(ends)
    paid = wall * setting.devices
    return Found(wall, useful / paid, redone / useful, max(0.0, wall - first_idle), waited / paid)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0, 1, 2, 5, 10, 15, 20])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--spread", type=float, default=0.4)
    parser.add_argument("--fixed", type=float, default=0.7)
    parser.add_argument("--save", type=float, default=300.0)
    parser.add_argument("--notice", type=float, default=0.9)
    parser.add_argument("--setup", type=float, default=90.0)
    parser.add_argument("--driver", type=float, default=0.1)
    parser.add_argument("--start", type=float, default=12.0)
    parser.add_argument("--figure", metavar="FILE")
    options = parser.parse_args()
    fields = {name: v for name, v in vars(options).items() if name not in ("rates", "figure")}
    rows: list[tuple[float, Found]] = []
    print("reclaims, %/h   wall, h   utilisation   redone   tail, min   waiting for the driver")
    for rate in options.rates:
        found = simulate(Setting(rate=rate / 100, **fields))
        rows.append((rate, found))
        print(
            f"{rate:13g} {found.wall / 3600:9.2f} {found.busy:13.1%} {found.redone:8.2%} "
            f"{found.tail / 60:11.1f} {found.waited:24.2%}"
        )
    if options.figure:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), constrained_layout=True)
        x = [rate for rate, _ in rows]
        for axis, title, values in (
            (axes[0], "utilisation, %", [100 * f.busy for _, f in rows]),
            (axes[1], "work done twice, %", [100 * f.redone for _, f in rows]),
            (axes[2], "tail, minutes", [f.tail / 60 for _, f in rows]),
        ):
            axis.plot(x, values, marker="o")
            axis.set(title=title, xlabel="reclaims, % of the GPUs an hour", ylim=(0, None))
        figure.savefig(options.figure, metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
