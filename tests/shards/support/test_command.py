"""How a program ends: with its status, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shards.support.command import above, at_least, make_parser

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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (at_least(0.0), "a finite number, at least 0"),
        (above(0.0), "a finite number above 0"),
        (at_least(1), "a whole number, at least 1"),
    ],
)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "soon", ""])
def test_an_option_that_is_no_such_number_is_refused_in_a_line(kind, said, text, capsys) -> None:
    parser = make_parser("test", None)
    parser.add_argument("--seconds", type=kind)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f"--seconds={text}"])
    assert caught.value.code == 2
    line = f"error: argument --seconds: {text}; expected {said}; see python -m test --help\n"
    assert capsys.readouterr().err == line


def test_an_option_keeps_its_number_and_type() -> None:
    assert [at_least(0.0)(text) for text in ("0", "0.5", "1e300")] == [0.0, 0.5, 1e300]
    assert above(0.0)("5e-324") > 0
    assert at_least(1)("1" * 400) > 10**399  # more than a float holds
    assert isinstance(at_least(1)("7"), int)
