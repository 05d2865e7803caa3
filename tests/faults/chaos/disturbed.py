"""A real sweep that is disturbed: its drivers, its processes, and how far its trials are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shards.support.lease import Claim, read_claim
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from tests.sweep.conftest import command, events
from trainers.config.schema import TrialConfig
from trainers.results.folder import RESULT, trial_folder
from trainers.results.trial_journal import read_rows

MARK = "DISTIL_CHAOS_MARK"  # in the environment of every process of a disturbed sweep
GONE_SECONDS = 60.0
AGENT = "Agent"  # in the names of Ray's two agents: they look for a lost GCS for 60 s
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_raylet_start_wait_time_s": "120",  # on a busy machine Ray's own limit is too short
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Progress:
    """How far a trial is.

    Attributes:
        generation: of its lease: how many processes have run it so far.
        rows: epochs in its journal.
        finished: whether it has a result.
    """

    generation: int
    rows: int
    finished: bool

    def is_beyond(self, before: Progress, anew: bool) -> bool:
        """Whether it is further than `before`; anew: by a later holder of the lease."""
        if self.finished and not before.finished:
            return True
        return self.rows > before.rows and (self.generation > before.generation or not anew)


@dataclass
class Driver:
    """One `python -m sweep.run` after the other, on one --out folder.

    codes: exit statuses so far, -9 where it was killed.
    """

    arguments: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    codes: list[int] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("ab") as log:
            log.write(f"---- start {len(self.codes) + 1}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.arguments,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """The exit status of the command that was started last; None while it runs."""
        if self.process is None:
            return self.codes[-1]
        code = self.process.poll()
        if code is not None:
            self.codes.append(code)
            self.process = None
        return code

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Disturbed:
    """A sweep of `grid` in FOLDER/run. options: of sweep.run. environment: of its processes."""

    def __init__(
        self, grid: Path, folder: Path, options: list[str], environment: dict[str, str]
    ) -> None:
        self.grid, self.folder, self.store = grid, folder, folder / "run"
        self.mark = uuid.uuid4().hex
        self.environment = os.environ | QUIET | environment | {MARK: self.mark}
        self.options = options
        self.trials: dict[str, TrialConfig] = {
            config.identity: config for config in expand(load_grid(str(grid)))
        }
        self.driver = self.driver_in("run", [])
        self.joined: list[Driver] = []  # drivers that work beside the first
        self.stored: dict[str, int] = {}  # {trial: when its result was stored, ns}

    def driver_in(self, name: str, options: list[str]) -> Driver:
        """A driver on this sweep's store whose --out is FOLDER/NAME; it is not started."""
        arguments = command(self.grid, self.folder / name, *self.options, *options)
        return Driver(arguments, self.environment, self.folder / f"{name}.log")

    # ---- processes ----

    def processes(self) -> list[psutil.Process]:
        """All living processes of the sweep, whoever their parents are by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get(MARK) == self.mark
                ):
                    found.append(process)
        return found

    def named(self, name: str) -> list[psutil.Process]:
        """Those whose program has this name, as `raylet` and `gcs_server`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == name:
                    found.append(process)
        return found

    def ranks_beside(self, pid: int) -> list[psutil.Process]:
        """All ranks of the gang of which one has this process number."""
        with contextlib.suppress(psutil.Error):
            port = port_of_rank(psutil.Process(pid))
            return [p for p in self.processes() if port and port_of_rank(p) == port]
        return []

    def kill_all(self) -> None:
        """What the loss of the machine does."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def left_after(self) -> list[str]:
        """Names of the processes that have not ended after GONE_SECONDS, but for Ray's agents."""
        end = time.monotonic() + GONE_SECONDS
        while (
            left := [d for d in map(described, self.processes()) if AGENT not in d]
        ) and time.monotonic() < end:
            time.sleep(0.5)
        return left

    # ---- trials ----

    def folder_of(self, trial: str) -> Path:
        return Path(trial_folder(str(self.store), self.trials[trial]))

    def progress(self, trial: str) -> Progress:
        folder = self.folder_of(trial)
        generation, _ = read_claim(str(folder / "lease"))
        rows = sum(row["event"] == "epoch" for row in read_rows(str(folder)))
        finished = (folder / RESULT).exists()
        if finished:
            self.stored.setdefault(trial, (folder / RESULT).stat().st_mtime_ns)
        return Progress(generation, rows, finished)

    def folders(self) -> list[Path]:
        """The --out folder of each driver."""
        return [self.folder / driver.log.stem for driver in (self.driver, *self.joined)]

    def failures(self) -> Counter[str]:
        """{trial: how often it was given up, until the command is run again}."""
        return Counter(e["trial"] for out in self.folders() for e in events(out, "failed"))

    def holders(self) -> dict[str, Claim]:
        """{trial: the claim of the living process that runs it}."""
        found = {}
        for trial in self.trials:
            _, claim = read_claim(str(self.folder_of(trial) / "lease"))
            if claim and not claim.released and psutil.pid_exists(claim.process.pid):
                found[trial] = claim
        return found

    def is_writing(self, trial: str) -> bool:
        """Whether the holder's staging folder holds anything: inside a save or a publish."""
        with contextlib.suppress(OSError):
            return any(self.folder_of(trial).glob("lease/*.staging/*"))
        return False

    def phase(self, trial: str) -> str:
        """What the trial does at this moment."""
        if self.is_writing(trial):
            return "saving"
        rows, config = self.progress(trial).rows, self.trials[trial]
        if rows == 0:
            return "starting"
        return "measuring" if rows >= (config.epochs or 0) else "training"


def port_of_rank(process: psutil.Process) -> str:
    """The port where the ranks of its gang meet, of a forked rank; empty for other processes."""
    with contextlib.suppress(psutil.Error):
        # "rank 0:37957", see sweep.running.rank_host; what a rank forks inherits its name.
        name, parent = process.name(), process.parent()
        if name.startswith("rank ") and (parent is None or parent.name() != name):
            return name.partition(":")[2]
    return ""


def wait_until(what: Callable[[], Any], seconds: float, pause: float = 0.1) -> Any:
    """The first true value of `what`, or the last one after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(pause)
    return found


def mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server on FOLDER/mlflow.db."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    options += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "mlflow.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            # Its jobs, which nothing here uses, would be seven more processes.
            env=os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {process.name()} {' '.join(process.cmdline()[:4])[:120]}"
    return str(process.pid)
