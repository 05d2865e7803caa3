"""The faults that a sweep is put to, by name. Each is one function of the sweep and a generator."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.chaos.disturbed import Disturbed, Driver, Progress, mlflow_server, wait_until

SAVING_SHARE = 0.5  # of the kills that wait for their victim to write a file
NOTICE_SECONDS = 30.0  # Google's time between a spot notice and the end of the machine
HANG_SECONDS = 10.0  # more than MLflow's time limit for a request, see sweep.environment
FULL_SECONDS = 5.0
SMALL = 500  # bytes that a file may have where the disk is full


class MissedError(RuntimeError):
    """There was nothing that the fault could hit at that moment."""


@dataclass(frozen=True)
class Hit:
    """A fault that was injected.

    Attributes:
        before: {trial: its progress} of the trials that it hit.
        phase: what the first of them did then.
        anew: whether work can only go on with another holder of a trial's lease.
    """

    before: dict[str, Progress]
    phase: str
    anew: bool = True


@dataclass
class Surroundings:
    """What belongs to the sweep and is not part of it: files and servers in `folder`."""

    folder: Path
    port: int = 0
    server: subprocess.Popen[bytes] | None = None

    @property
    def notice(self) -> Path:
        """The sweep's machine has a spot notice while this file is there."""
        return self.folder / "notice"

    def start_server(self) -> None:
        self.server = mlflow_server(self.folder, self.port)

    def stop_server(self, kind: int = signal.SIGKILL) -> None:
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, kind)
            if kind == signal.SIGKILL:
                self.server.wait()


Fault = Callable[[Disturbed, Surroundings, random.Random], Hit]


def _running(sweep: Disturbed, wanted: Callable[[int], bool] = lambda ranks: True) -> list[str]:
    """Trials that run at present with so many ranks. Raises: MissedError."""
    found = [trial for trial in sweep.holders() if wanted(sweep.trials[trial].ranks)]
    if not found:
        raise MissedError("no such trial runs")
    return sorted(found)


def _hit(sweep: Disturbed, trials: list[str], anew: bool = True) -> Hit:
    phase = sweep.phase(trials[0]) if trials else "no trial runs"
    return Hit({trial: sweep.progress(trial) for trial in trials}, phase, anew)


def _kill(sweep: Disturbed, rng: random.Random, trial: str, pid: int) -> Hit:
    """Kill a process of a trial, some of the time while the trial writes a file."""
    before = sweep.progress(trial)
    saves = rng.random() < SAVING_SHARE
    if saves:
        wait_until(lambda: sweep.is_writing(trial), 5, pause=0.0002)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    # The dead cannot tidy up: what was being written at the time still lies there.
    return Hit({trial: before}, sweep.phase(trial))


def kill_trial(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    trial = rng.choice(_running(sweep, lambda ranks: ranks == 1))
    return _kill(sweep, rng, trial, _pid(sweep, trial))


def kill_rank(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    trial, rank = _rank(sweep, rng)
    return _kill(sweep, rng, trial, rank.pid)


def stop_rank(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """SIGSTOP: it neither ends nor answers, as a stuck collective does."""
    trial, rank = _rank(sweep, rng)
    hit = _hit(sweep, [trial])
    with contextlib.suppress(psutil.Error):
        rank.suspend()
    return hit


def kill_driver(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    return _end_driver(sweep, sweep.driver, signal.SIGKILL, rng)


def terminate_driver(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    return _end_driver(sweep, sweep.driver, signal.SIGTERM, rng)


def kill_raylet(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    return _kill_of_ray(sweep, "raylet", rng)


def kill_gcs(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    return _kill_of_ray(sweep, "gcs_server", rng)


def take_machine_away(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """A spot notice, then the loss of every process once trials have left, or time is over.

    A trial that has not trained yet has nothing to save, and may still be starting at the end.
    """
    trials = _running(sweep)
    hit = _hit(sweep, trials)
    at_work = {trial for trial in trials if sweep.phase(trial) != "starting"}
    around.notice.touch()
    wait_until(lambda: not sweep.holders().keys() & set(trials), NOTICE_SECONDS)
    left = not sweep.holders().keys() & at_work
    sweep.kill_all()
    around.notice.unlink()
    return hit if left else Hit(hit.before, f"{hit.phase}, not saved in {NOTICE_SECONDS:g} s")


def kill_mlflow(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """Its server, which is started again after a while."""
    hit = _hit(sweep, _running(sweep), anew=False)
    around.stop_server()
    time.sleep(rng.uniform(0, HANG_SECONDS))
    around.start_server()
    return hit


def hang_mlflow(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """SIGSTOP to its server: connections are accepted, and nothing is answered."""
    hit = _hit(sweep, _running(sweep), anew=False)
    around.stop_server(signal.SIGSTOP)
    time.sleep(HANG_SECONDS)
    around.stop_server(signal.SIGCONT)
    return hit


def fill_disk(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """For one trial, whose process may write no larger files for a while.

    The trial fails, and the same command runs it again later; the others must go on.
    """
    trial = rng.choice(_running(sweep))
    phase, pid, failures = sweep.phase(trial), _pid(sweep, trial), sweep.failures()[trial]
    others = {other: sweep.progress(other) for other in sweep.trials if other != trial}
    hit = Hit({name: at for name, at in others.items() if not at.finished}, phase, anew=False)
    with contextlib.suppress(ProcessLookupError):
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (SMALL, before[1]))
        # Not longer: the process goes on with the next trial.
        wait_until(lambda: sweep.failures()[trial] > failures, FULL_SECONDS)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    return hit


def start_second(sweep: Disturbed, around: Surroundings, rng: random.Random) -> Hit:
    """Another driver on the same store: without --join it must leave, then with --join it helps."""
    hit = _hit(sweep, _running(sweep), anew=False)
    number = len(sweep.joined) + 2
    refused = sweep.driver_in(f"run{number}", ["--store", str(sweep.store)])
    refused.start()
    code = wait_until(lambda: refused.ended() is not None, 120) and refused.codes[-1]
    joined = sweep.driver_in(f"run{number}", ["--store", str(sweep.store), "--join"])
    joined.start()
    sweep.joined.append(joined)
    return hit if code == 2 else Hit(hit.before, f"{hit.phase}, not refused: {code}", anew=False)


FAULTS: dict[str, tuple[str, Fault]] = {
    "trial": ("SIGKILL of a trial of one rank", kill_trial),
    "rank": ("SIGKILL of a rank of a gang", kill_rank),
    "driver": ("SIGKILL of the driver", kill_driver),
    "raylet": ("SIGKILL of the raylet", kill_raylet),
    "gcs": ("SIGKILL of the control process (GCS)", kill_gcs),
    "terminate": ("SIGTERM to the driver", terminate_driver),
    "spot": ("spot notice, then every process is lost", take_machine_away),
    "stopped": ("SIGSTOP of a rank of a gang", stop_rank),
    "mlflow": ("SIGKILL of the MLflow server", kill_mlflow),
    "hanging": (f"MLflow server silent for {HANG_SECONDS:g} s", hang_mlflow),
    "full": ("full disk under a trial", fill_disk),
    "second": ("a second driver, refused, then with --join", start_second),
}
OF_MLFLOW = {"mlflow", "hanging"}


def _pid(sweep: Disturbed, trial: str) -> int:
    claim = sweep.holders().get(trial)
    if claim is None:
        raise MissedError(f"trial {trial} has ended")
    return claim.process.pid


def _rank(sweep: Disturbed, rng: random.Random) -> tuple[str, psutil.Process]:
    trial = rng.choice(_running(sweep, lambda ranks: ranks > 1))
    ranks = sweep.ranks_beside(_pid(sweep, trial))
    if not ranks:
        raise MissedError(f"trial {trial} has ended")
    return trial, rng.choice(sorted(ranks, key=lambda process: process.pid))


def _end_driver(sweep: Disturbed, driver: Driver, kind: int, rng: random.Random) -> Hit:
    hit = _hit(sweep, _running(sweep))
    if driver.process is None:
        raise MissedError("the driver has ended")
    hit = _while_saving(sweep, rng, hit)
    driver.process.send_signal(kind)
    return hit


def _kill_of_ray(sweep: Disturbed, name: str, rng: random.Random) -> Hit:
    hit, found = _hit(sweep, _running(sweep)), sweep.named(name)
    if not found:
        raise MissedError(f"no {name} runs")
    hit = _while_saving(sweep, rng, hit)
    with contextlib.suppress(psutil.Error):
        found[0].kill()
    return hit


def _while_saving(sweep: Disturbed, rng: random.Random, hit: Hit) -> Hit:
    """Some of the time, wait until one of the trials writes a file: the kill follows at once."""
    if rng.random() < SAVING_SHARE:
        writes = wait_until(lambda: any(map(sweep.is_writing, hit.before)), 5, pause=0.0002)
        return Hit(hit.before, "saving" if writes else hit.phase)
    return hit
