"""The upload to MLflow beside a sweep, in a process of its own; the driver imports no MLflow.

The process follows the journal on disk, so it may be late, or die, without any effect on the sweep:
what it has not sent, the next command or `python -m sweep.sync` sends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.support.child_process import child_command, run_module
from shards.support.command import one_line, without_password
from sweep.journal.events import NAME
from sweep.journal.patience import Patience

# Seconds without progress after which the end of an upload is not waited for, see Patience.
PATIENCE = 60.0
LOOK = 0.2  # seconds between two looks at the journal's size, until it grows
GRACE = 5.0  # seconds that an upload gets to end its runs, where the sweep was interrupted
NOTICE = 5.0  # seconds after which a line says what is waited for


class Uploader:
    """`with Uploader(folder, name, uri) as uploader: ...; uploader.finish(...)`.

    folder: of the run, whose journal is followed. name: of the experiment. uri: of the server.
    register: see Tracker. The process starts once the journal gets its first new row, or is to
    finish: before, it would only delay the first trial. Leaving the context ends it, whatever it
    was doing; without `finish` it first gets GRACE seconds to end its runs as KILLED.

    Attributes:
        experiment: the experiment's id, "" before `finish` and where MLflow was not reached.
    """

    def __init__(self, folder: Path, name: str, uri: str, register: str = "") -> None:
        self.folder, self.uri, self.experiment = folder, uri, ""
        self._arguments = [str(folder), name, register]
        self._process: subprocess.Popen[str] | None = None
        self._error = ""  # why it could not be started
        self._started = threading.Event()
        self._wanted, self._left = threading.Event(), threading.Event()
        self._progress_at = time.monotonic()
        self._last: dict[str, Any] = {}
        self._told = False  # whether the process knows how the sweep has ended
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def __enter__(self) -> Uploader:
        self._thread.start()
        return self

    def start(self) -> None:
        """Start the process now."""
        self._wanted.set()
        self._started.wait()

    def _run(self) -> None:
        """Start the process in time and listen to it: it ends with the thread that started it."""
        before = self._rows()
        while not self._wanted.wait(LOOK) and self._rows() == before:
            pass
        if self._left.is_set():
            return
        command = child_command(run_module("sweep.journal.upload_process"), self._arguments)
        try:
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is for the sweep, which then says how it has ended
            )
            self._send(process, self.uri)  # not an argument: `ps` shows passwords
        except OSError as error:
            self._error = one_line(str(error))
            return
        finally:
            self._started.set()
        self._listen(process)

    def _rows(self) -> int:
        """Bytes of the journal."""
        with contextlib.suppress(OSError):
            return (self.folder / NAME).stat().st_size
        return 0

    @staticmethod
    def _send(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        # A pipe without a reader: the process has ended, of which `finish` returns a line.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._progress_at = time.monotonic()
            self._last = json.loads(line)

    def finish(
        self,
        status: str,
        report: Path | None = None,
        patience: float = PATIENCE,
        notify: Callable[[str], None] = lambda line: None,
    ) -> list[str]:
        """Upload what is left, for as long as that makes progress; what MLflow lacks, in lines.

        status: what the sweep's own run ends as, FINISHED, FAILED or KILLED. report: a file that is
        stored with it. patience: seconds without progress after which it is given up, see Patience.
        notify: gets a line once it has taken NOTICE seconds.
        """
        self.start()
        process = self._process
        if process is None:
            return [lacking(self.folder, self.uri, self._error)]
        self._told = True
        end = {"status": status, "report": str(report) if report else ""}
        self._send(process, json.dumps(end))
        began = progress_at = self._progress_at = time.monotonic()
        wait, notified = Patience(patience, process.pid), False
        while process.poll() is None and not wait.is_over():
            time.sleep(0.05)
            if self._progress_at > progress_at:
                progress_at = self._progress_at
                wait.renew()
            if not notified and time.monotonic() - began > NOTICE:
                shown = without_password(self.uri)
                notify(f"uploading the rest to MLflow at {shown}; Ctrl-C leaves it to sweep.sync")
                notified = True
        return self._ended(process, patience)

    def _ended(self, process: subprocess.Popen[str], patience: float) -> list[str]:
        for _ in range(100):  # the last line may still be in the pipe
            if self._last or process.poll() is None:
                break
            time.sleep(0.01)
        if self._last:
            self.experiment = self._last["experiment"]
            return self._last["warnings"]
        code = process.poll()
        why = (
            f"no progress for {patience:g} s" if code is None else f"its process ended with {code}"
        )
        return [lacking(self.folder, self.uri, why)]

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._wanted.set()
        while self._thread.is_alive() and self._process is None:
            time.sleep(0.01)  # it ends by itself, or has the process in a moment
        if self._process is None:
            return
        try:
            if not self._told:
                assert self._process.stdin is not None
                # The end of its input is that of the sweep; it may have ended, or hang.
                with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                    self._process.stdin.close()
                    self._process.wait(GRACE)
        finally:
            self._process.kill()
            self._process.wait()


def lacking(folder: Path, uri: str, error: str) -> str:
    """The line for values that have not arrived."""
    shown = without_password(uri)
    return (
        f"MLflow at {shown} lacks some values ({error}); nothing is lost: once that is put right, "
        f"`python -m sweep.sync {folder}` uploads the rest"
    )
