"""What a trial costs besides its training, after the first one: of one rank, and of two.

    python benchmarks/trial_overhead.py

Trials of one step run through `sweep.run`; those of one rank again without Ray, where every part is
timed. The difference is `actor`: Ray, Tune and the driver. Each part is shown as CPU seconds / wall
seconds of a trial; other programs on the machine weigh on the wall clock only. Further: CPU seconds
of `sweep.run --help` and of mistakes in a grid, and of a sweep until its first step.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from many_trials import GRID, cpu_of
from ratios import Ratio, finish
from sampled import DRIVER, WORKERS, Sampled, run_sampled

PARTS = ("actor", "bank", "training", "checkpoint", "journal", "probes", "other")
TRAINING = "training"  # is no overhead
GANG = "engine: ddp\n  ranks: 2\n  student"  # in place of the field `student`
FIRST = 15.0  # seconds until a sweep's first step


class Split:
    """CPU and wall seconds by part; a part within another one counts for itself alone.

    seconds: {part: [CPU, wall]}.
    """

    def __init__(self) -> None:
        self.seconds = {part: [0.0, 0.0] for part in PARTS}
        self._open: list[str] = ["other"]
        self._at = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def _credit(self) -> None:
        before, self._at = self._at, self._now()
        for i in range(2):
            self.seconds[self._open[-1]][i] += self._at[i] - before[i]

    @contextlib.contextmanager
    def during(self, part: str) -> Iterator[None]:
        self._credit()
        self._open.append(part)
        try:
            yield
        finally:
            self._credit()
            self._open.pop()

    def wrap(self, part: str, owner: Any, *names: str) -> None:
        """Count calls of functions of a module or class for `part`."""
        for name in names:
            setattr(owner, name, self._counted(part, getattr(owner, name)))

    def _counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            with self.during(part):
                return function(*arguments, **named)

        return counted

    def restart(self) -> None:
        """Forget what was counted."""
        self._credit()
        self.seconds = {part: [0.0, 0.0] for part in PARTS}

    def taken(self) -> dict[str, list[float]]:
        self._credit()
        return self.seconds


def instrument() -> Split:
    """Time the parts of all trials of this process from now on."""
    from shards.support.lease import Lease
    from trainers import runner
    from trainers.inputs import TrialInputs
    from trainers.results.trial_journal import TrialJournal
    from trainers.training.checkpoint import Checkpoints

    split = Split()
    split.wrap("bank", runner, "resolve")
    split.wrap("bank", TrialInputs, "load")
    split.wrap(TRAINING, runner, "train_student")
    split.wrap("checkpoint", Checkpoints, "latest", "save")
    split.wrap("checkpoint", runner, "tidy")
    split.wrap("journal", TrialJournal, "__init__", "start", "epoch", "finished", "flush", "leave")
    split.wrap("journal", runner, "take_trial")
    split.wrap("journal", Lease, "__enter__", "__exit__", "publish", "publish_folder")
    split.wrap("probes", runner, "student_to_measure", "measure_trial")
    return split


def without_ray(config: dict[str, Any], bank: str, trials: int) -> dict[str, list[float]]:
    """{part: [CPU, wall] seconds of a trial}: means over all trials but the first."""
    from trainers.canonical import make_config
    from trainers.runner import run_trial

    split = instrument()
    found: list[dict[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(trials):
            split.restart()
            seed = {"seed": 1000 + number}
            run_trial(make_config(config | seed), bank, f"{folder}/out", device="cpu")
            found.append(split.taken())
    return {
        part: [sum(one[part][i] for one in found[1:]) / (trials - 1) for i in range(2)]
        for part in PARTS
    }


def by_sweep(gang: bool, trials: int, folder: Path) -> tuple[Sampled, list[float], Path]:
    """A sweep of one worker: (its processes, when each result came, its run folder)."""
    text = GRID.format(trials=trials)
    grid, run = folder / "grid.yaml", folder / "run"
    grid.write_text(text.replace("student", GANG, 1) if gang else text)
    arguments = ["--grid", str(grid), "--cpus", "2" if gang else "1", "--out", str(run)]
    sampled = run_sampled(arguments, folder / "log")
    return sampled, sorted(p.stat().st_mtime for p in run.glob("trials/*/result.json")), run


def measured(gang: bool, trials: int, limit: float) -> tuple[list[Ratio], float]:
    """(Ratios of a trial's overhead, CPU seconds of the sweep until its first step)."""
    with tempfile.TemporaryDirectory() as name:
        sampled, ends, run = by_sweep(gang, trials, Path(name))
        config = json.loads(next(run.glob("trials/*/result.json")).read_text())["config"]
        (bank,) = (run / "banks").iterdir()
        starts = [
            json.loads(p.read_text().splitlines()[1])["time_ms"] / 1000
            for p in run.glob("trials/*/journal/*.jsonl")
        ]
        begun = sampled.timeline[0][0]
        first = sum(sampled.cpu_between(begun, min(starts), role) for role in (DRIVER, WORKERS))
        split = {} if gang else _in_a_process(config, str(bank), trials)
    count, ranks = len(ends) - 1, 2 if gang else 1
    used = [sampled.cpu_between(ends[0], ends[-1], role) for role in (DRIVER, WORKERS)]
    whole = [sum(used) / count, (ends[-1] - ends[0]) / count]
    if split:
        actor = [whole[i] - sum(t[i] for t in split.values()) for i in range(2)]
        parts = split | {"actor": actor}
        training = parts[TRAINING]
        print("a trial of one rank: CPU / wall seconds of a trial after the first")
        for part in PARTS:
            print(f"  {part:<12}{parts[part][0]:7.3f} /{parts[part][1]:7.3f}")
        text = ": " + ", ".join(f"{part} {parts[part][0]:.2f}" for part in PARTS)
    else:
        # A sweep forks its ranks, so parts that are timed in fresh processes say nothing of them.
        training, text = [0.0, 0.0], ""
    who = "a gang of two with its one step" if gang else "a trial of one rank besides training"
    found: list[Ratio] = []
    for i, kind in enumerate(("CPU", "wall")):
        overhead = whole[i] - training[i]
        what = f"{kind} seconds of {who} against {limit:g} s"
        # Both ranks use CPU time at once, and the limit is of the wall clock.
        allowed = float(ranks) if kind == "CPU" else 1.0
        detail = f"{overhead:.2f} s" + (text if kind == "CPU" else "")
        found.append(Ratio(what, overhead / limit, allowed, False, detail))
    return found, first


def _in_a_process(config: dict[str, Any], bank: str, trials: int) -> dict[str, list[float]]:
    """`without_ray` in a process of its own, which is fresh as a worker is."""
    command = [sys.executable, __file__, "--config", json.dumps(config), "--bank", bank]
    out = subprocess.run(
        [*command, "--trials", str(trials)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def commands(folder: Path) -> list[Ratio]:
    """CPU seconds of commands that run nothing, against what is allowed."""
    wrong = folder / "wrong.yaml"
    wrong.write_text(GRID.format(trials=1).replace("batch_size", "batch_siez"))
    python = [sys.executable, "-m", "sweep.run"]
    found: list[Ratio] = []
    for what, limit, command in (
        ("sweep.run --help", 1.0, [*python, "--help"]),
        ("a mistake in a grid", 2.0, [*python, "--grid", str(wrong)]),
    ):
        used = cpu_of(command)
        text = f"{used:.2f} CPU s"
        found.append(
            Ratio(f"CPU seconds of {what} against {limit:g} s", used / limit, 1.0, False, text)
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--trials", type=int, default=9, help="of one rank (default: %(default)s)")
    parser.add_argument("--gangs", type=int, default=4, help="of two ranks (default: %(default)s)")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--bank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.config:
        print(json.dumps(without_ray(json.loads(options.config), options.bank, options.trials)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = commands(Path(folder))
    alone, first = measured(False, options.trials, 1.0)
    what = f"CPU seconds of a sweep until its first step against {FIRST:g} s"
    # Driver, upload, Ray and the worker import at the same time on as many cores as there are.
    found.append(Ratio(what, first / FIRST, 2.0, False, f"{first:.1f} CPU s in all processes"))
    together, _ = measured(True, options.gangs, 5.0)
    return finish([*found, *alone, *together])


if __name__ == "__main__":
    sys.exit(main())
