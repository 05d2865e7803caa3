"""The process that uploads a journal: `python -m sweep.journal.upload_process RUN NAME REGISTER`.

`sweep.journal.uploader` starts it and writes to its standard input: at once a line with the
server's URI, which may hold a password and so is no argument, since all users see those; when the
sweep has ended {"status": "FINISHED", "report": PATH}. On its standard output it writes a line {}
whenever something has arrived, at most one a second, and at the end one with
{"warnings": [...], "experiment": ID}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from sweep.environment import set_defaults

NICE = 19  # trials come first, and Ray runs them at 15


def main(folder: str, name: str, register: str) -> None:
    uri = sys.stdin.readline().rstrip("\n")
    set_defaults()
    os.nice(NICE)
    from sweep.journal.system_metrics import system_metrics
    from sweep.journal.tracking import Tracker

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not mix with the lines
    tracker = Tracker(Path(folder), name, uri, register)
    tracker.start()

    def end() -> None:
        """Wait for the sweep's end, which is also that of its process."""
        line = sys.stdin.readline()
        last: dict[str, Any] = json.loads(line) if line else {"status": "KILLED", "report": ""}
        tracker.end(last["status"], Path(last["report"]) if last["report"] else None)

    threading.Thread(target=end, daemon=True).start()
    reported_at = tracker.progress_at
    with system_metrics(tracker.server):
        while not tracker.join(1.0):
            if tracker.progress_at > reported_at:
                reported_at = tracker.progress_at
                print("{}", file=out, flush=True)
    last = {"warnings": tracker.warnings(), "experiment": tracker.experiment}
    print(json.dumps(last), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
