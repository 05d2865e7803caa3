"""What counts as waiting without progress."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from sweep.journal.patience import LONGEST, Patience


def seconds_until_over(patience: Patience, limit: float) -> float:
    start = time.monotonic()
    while not patience.is_over() and time.monotonic() - start < limit:
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("program", "least", "most"),
    [
        ("import time; print(flush=True); time.sleep(60)", 0.5, 3.0),
        ("print(flush=True)\nwhile True: pass", 0.5 * LONGEST, 8.0),
        # The main thread waits, as that of an upload does, while another one works.
        (
            "import threading; print(flush=True)\ndef work():\n  while True: pass\n"
            "thread = threading.Thread(target=work); thread.start(); thread.join()",
            0.5 * LONGEST,
            8.0,
        ),
    ],
    ids=["waits", "works", "works in a thread"],
)
def test_time_in_which_a_process_works_does_not_count(
    program: str, least: float, most: float
) -> None:
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert least <= seconds_until_over(Patience(0.5, child.pid), 10) <= most
    finally:
        child.kill()
        child.wait()


def test_the_calling_thread_does_not_count_as_work() -> None:
    assert seconds_until_over(Patience(0.5, os.getpid()), 10) < 3


def test_progress_begins_a_new_wait() -> None:
    patience = Patience(0.5, os.getpid())
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        patience.renew()
        assert not patience.is_over()
        time.sleep(0.02)
