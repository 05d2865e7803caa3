"""One round: a sweep runs under faults, and the same command again and again until it ends."""

from __future__ import annotations

import math
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.faults.chaos.disturbed import Disturbed, Driver, Progress
from tests.faults.chaos.faults import FAULTS, OF_MLFLOW, Hit, MissedError, Surroundings
from tests.faults.chaos.invariants import Control, broken_checkpoints, violations
from tests.faults.chaos.redone import Redone, Seen, redone

SAVE_SECONDS = "0.3"
CPUS = "2"
SILENT_SECONDS = "20"
PAUSE = 1.0  # at most so many seconds between work going on and the next fault
RESTARTS = 60  # of one command in one round
AT_WORK = ("training", "saving", "measuring")  # phases of a trial that has something to lose
# After so many faults that hit one, some attempt has gone on from a checkpoint: a trial is only
# without one for the first SAVE_SECONDS of its training.
ENOUGH = 4


@dataclass
class Injection:
    """A fault that was injected. seconds: until work went on; None where it did not need to."""

    fault: str
    phase: str
    trials: list[str]
    seconds: float | None


@dataclass
class Round:
    """What one round did and what it found.

    codes: exit statuses of the command. violations: what did not hold, a line each. redone: the
    training that was done twice; None where the round did not come to its end.
    """

    seed: int
    faults: list[str]
    injections: list[Injection] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    redone: Redone | None = None


class HungError(RuntimeError):
    """Work did not go on in time."""


def run_control(grid: Path, folder: Path) -> None:
    """The undisturbed sweep, in FOLDER/run. Raises: RuntimeError where it fails.

    Saving changes no result, and often takes longer than training here: it saves as sweeps do.
    """
    sweep = Disturbed(grid, folder, ["--cpus", CPUS], {})
    sweep.driver.start()
    assert sweep.driver.process is not None
    if sweep.driver.process.wait() != 0:
        raise RuntimeError(f"the undisturbed sweep failed: {sweep.driver.log.read_text()[-2000:]}")


def run_round(
    grid: Path,
    folder: Path,
    bank_of: Path,
    control: Control,
    seed: int,
    faults: list[str],
    limit: float,
    ending: list[psutil.Process],
    pause: float = PAUSE,
    until: float = math.inf,
    say: Callable[[str], None] = lambda line: None,
) -> Round:
    """Run the sweep of `grid` in `folder` under these faults, and check what must hold.

    bank_of: the control's run folder, whose banks are used. seed: of victims and moments.
    limit: seconds in which work must go on after each fault. ending: gets the processes that need
    up to a minute to end. until: after this time of the monotonic clock no fault is injected.
    """
    folder.mkdir(parents=True)
    around = Surroundings(folder)
    options = ["--cpus", CPUS, "--save-seconds", SAVE_SECONDS]
    environment = {"DISTIL_SILENT_SECONDS": SILENT_SECONDS}
    if "spot" in faults:
        environment["DISTIL_SPOT_NOTICE"] = f"test -e {around.notice}"
    if OF_MLFLOW & set(faults):
        around.port = _free_port()
        around.start_server()
        options += ["--tracking-uri", f"http://127.0.0.1:{around.port}"]
    sweep = Disturbed(grid, folder, options, environment)
    shutil.copytree(bank_of / "banks", sweep.store / "banks")
    done, start, ended = Round(seed, faults), time.monotonic(), False
    try:
        round_ = _Round(sweep, control, around, done, limit, say)
        round_.run(faults, random.Random(seed), pause, until)
        database = folder / "mlflow.db" if around.server else None
        done.violations += violations(sweep, control, database)
        round_.compare_resumed()
        left = sweep.left_after()
        done.violations += [f"I5: left: {process}" for process in left]
        ended = not left
    except HungError as error:
        done.violations.append(f"hung: {error}")
    finally:
        if ended:
            ending += sweep.processes()
        else:
            sweep.kill_all()
        around.stop_server()
        done.codes, done.seconds = sweep.driver.codes, round(time.monotonic() - start, 1)
    return done


class _Round:
    def __init__(
        self,
        sweep: Disturbed,
        control: Control,
        around: Surroundings,
        done: Round,
        limit: float,
        say: Callable[[str], None],
    ) -> None:
        self.sweep, self.control, self.around, self.done = sweep, control, around, done
        self.limit, self.say = limit, say
        self.seen = [Seen(sweep.folder_of(trial)) for trial in sweep.trials]

    def run(self, faults: list[str], rng: random.Random, pause: float, until: float) -> None:
        self.sweep.driver.start()
        left = list(faults)
        while left and time.monotonic() < until and not self._is_over():
            self._wait(lambda: bool(self.sweep.holders()), "no trial began")
            end = time.monotonic() + rng.uniform(0, pause)
            self._wait(lambda end=end: time.monotonic() >= end, "")
            self._inject_next(left, rng)
        self._wait(lambda: False, "the command did not end")
        if self.around.server is not None:
            self._synchronise()

    def _inject_next(self, left: list[str], rng: random.Random) -> None:
        """Inject the first of the faults that finds a victim, as gangs run at certain times."""
        for name in left:
            if self._is_over():
                return
            self._restart()
            running = set(self.sweep.holders())
            idle = {t: self.sweep.progress(t) for t in self.sweep.trials if t not in running}
            try:
                hit = FAULTS[name][1](self.sweep, self.around, rng)
            except MissedError:
                continue
            self._look()
            left.remove(name)
            self._follow(name, hit, idle)
            return

    def _follow(self, name: str, hit: Hit, idle: dict[str, Progress]) -> None:
        """Wait until a trial that was hit is further, or another that began in its place.

        idle: {trial: its progress} of those that did not run when the fault was injected.
        """
        start, given_up, failures = time.monotonic(), False, self.sweep.failures()
        since, succeeded = idle | hit.before, set[str]()

        def is_further(trial: str) -> bool:
            now = self.sweep.progress(trial)
            if now.generation > since[trial].generation and trial not in succeeded:
                # What the holder that was hit had still written is no sign of its successor.
                succeeded.add(trial)
                since[trial] = replace(since[trial], rows=now.rows)
            return now.is_beyond(since[trial], hit.anew)

        def goes_on() -> bool:
            nonlocal given_up
            now = self.sweep.failures()
            given_up = any(now[trial] > failures[trial] for trial in hit.before)
            return given_up or any(map(is_further, list(since)))

        self.say(f"  {name}: {', '.join(hit.before) or 'no trial'}, {hit.phase}")
        self._wait(goes_on if hit.before else lambda: bool(self.sweep.holders()), f"after {name}")
        seconds = None if given_up else round(time.monotonic() - start, 1)
        self.say("    given up for this run" if given_up else f"    went on after {seconds} s")
        self.done.injections.append(Injection(name, hit.phase, list(hit.before), seconds))
        if "not " in hit.phase.partition(",")[2]:
            self.done.violations.append(f"{name}: {hit.phase}")
        self.done.violations += broken_checkpoints(self.sweep, self.control)

    def _wait(self, what: Callable[[], bool], why: str) -> None:
        """Wait for `what`, or the end, and start commands again that ended before their work did.

        Raises: HungError.
        """
        end = time.monotonic() + self.limit
        at = self._progress()
        while not self._is_over() and not what():
            self._look()  # before a command is started again: then nothing newer is published
            self._restart()
            time.sleep(0.05)
            if time.monotonic() > end:
                if why and (now := self._progress()) != at:  # the whole sweep takes longer
                    at, end = now, time.monotonic() + self.limit
                    continue
                raise HungError(f"{why}: nothing went on for {self.limit:g} s")

    def _look(self) -> None:
        for seen in self.seen:
            seen.look()

    def compare_resumed(self) -> None:
        """I6: from where attempts went on, once every trial has ended."""
        self.done.redone = Redone()
        for seen in self.seen:
            most, found = redone(seen, float(SAVE_SECONDS))
            self.done.redone.add(most)
            self.done.violations += [f"I6: {line}" for line in found]
        hits = sum(i.phase.partition(",")[0] in AT_WORK for i in self.done.injections)
        if hits >= ENOUGH and not self.done.redone.from_checkpoint:
            self.done.violations.append(f"I6: {hits} faults, and nothing went on from a checkpoint")

    def _progress(self) -> list[object]:
        return [self.sweep.progress(trial) for trial in self.sweep.trials]

    def _drivers(self) -> list[Driver]:
        return [self.sweep.driver, *self.sweep.joined]

    def _is_over(self) -> bool:
        """Whether each driver has ended with every trial done."""
        return all(d.ended() is not None and d.codes[-1] == 0 for d in self._drivers())

    def _restart(self) -> None:
        for driver in self._drivers():
            code = driver.ended()
            if code is None or code == 0:
                continue
            self.done.violations += broken_checkpoints(self.sweep, self.control)
            if len(driver.codes) > RESTARTS:
                raise HungError(f"the command ended {RESTARTS} times: {driver.codes}")
            # Of two drivers that were lost together, either may come first.
            if self.sweep.joined and "--join" not in driver.arguments:
                driver.arguments += ["--store", str(self.sweep.store), "--join"]
            driver.start()

    def _synchronise(self) -> None:
        """What MLflow's server missed arrives now; a second time changes nothing."""
        uri = f"http://127.0.0.1:{self.around.port}"
        for folder in 2 * self.sweep.folders():
            arguments = ["-m", "sweep.sync", str(folder), "--tracking-uri", uri]
            ran = subprocess.run(
                [sys.executable, *arguments],
                check=False,
                capture_output=True,
                text=True,
                env=self.sweep.environment,
            )
            if ran.returncode != 0:
                self.done.violations.append(f"I3: sweep.sync {folder.name}: {ran.stderr[-300:]}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
