"""How a program ends: with its status, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import atexit, sys, threading, time
from shards.support.command import as_program, command
atexit.register(lambda: print("cleaned up"))
threading.Thread(target=time.sleep, args=(600,)).start()  # Python would wait for this one

@command
def main(argv):
    print("said", end=" ")
    {end}

as_program(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("raise ValueError('lr: -1')", 2, "error: lr: -1"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("sys.exit('no room')", 1, "no room"),
        ("raise RuntimeError('a defect')", 1, "RuntimeError: a defect"),
    ],
)
def test_a_program_ends_with_its_status_though_a_thread_goes_on(
    end: str, status: int, error: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (status, "said cleaned up\n")
    assert error in ran.stderr
