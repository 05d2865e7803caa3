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
from shards.support.command import without_password

PATIENCE = 60.0  # seconds without progress after which the end of an upload is not waited for
NOTICE = 5.0  # seconds after which a line says what is waited for


class Uploader:
    """`with Uploader(folder, name, uri) as uploader: ...; uploader.finish(...)`.

    folder: of the run, whose journal is followed. name: of the experiment. uri: of the server.
    register: see Tracker.
    Leaving the context ends the process, whatever it was doing.

    Attributes:
        experiment: the experiment's id, "" before `finish` and where MLflow was not reached.
    """

    def __init__(self, folder: Path, name: str, uri: str, register: str = "") -> None:
        self.folder, self.uri, self.experiment = folder, uri, ""
        self._arguments = [str(folder), name, register]
        self._process: subprocess.Popen[str] | None = None
        self._progress_at = time.monotonic()
        self._last: dict[str, Any] = {}

    def __enter__(self) -> Uploader:
        command = child_command(run_module("sweep.journal.upload_process"), self._arguments)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(self._process, self.uri)  # not an argument: `ps` shows passwords
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self

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
        stored with it. patience: seconds without progress after which it is given up. notify: gets
        a line once it has taken NOTICE seconds.
        """
        process = self._process
        assert process is not None
        end = {"status": status, "report": str(report) if report else ""}
        self._send(process, json.dumps(end))
        began = self._progress_at = time.monotonic()
        notified = False
        while process.poll() is None and time.monotonic() - self._progress_at < patience:
            time.sleep(0.05)
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
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def lacking(folder: Path, uri: str, error: str) -> str:
    """The line for values that have not arrived."""
    shown = without_password(uri)
    return (
        f"MLflow at {shown} lacks some values ({error}); nothing is lost: once that is put right, "
        f"`python -m sweep.sync {folder}` uploads the rest"
    )
