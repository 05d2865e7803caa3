"""The command line of every command: one look for help and errors, no traceback for bad input.

A command module reads::

    @command
    def main(argv: list[str]) -> int:
        parser = make_parser("shards.verify", __doc__)
        parser.add_argument("location", metavar="DIR-OR-URL")
        options = parser.parse_args(argv)
        ...
        return 0

Exit status: what `main` returns, 2 for bad input (with one line `error: ...` on stderr), 130 when
interrupted from the keyboard.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import functools
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line. argparse's own print the usage before it."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        meant = difflib.get_close_matches(wrong[1], self._option_string_actions) if wrong else []
        hint = f"; did you mean {meant[0]}?" if meant else ""
        self.exit(BAD_INPUT, f"error: {one_line(message)}{hint}; see {self.prog} --help\n")


def make_parser(module: str, doc: str | None, epilog: str | None = None) -> CommandParser:
    """The parser of `python -m MODULE`. `doc` is the module's docstring, examples included.

    The docstring is shown as it is written. Options must be spelled in full: an abbreviation would
    change its meaning on the day that a second option with the same beginning is added.
    """
    return CommandParser(
        prog=f"python -m {module}",
        description=doc,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def at_least(least: float) -> Callable[[str], float]:
    """An option's type: finite numbers of the type of `least`, and not below it."""
    return _number(type(least), lambda value: value >= least, f", at least {least:g}")


def above(bound: float) -> Callable[[str], float]:
    """An option's type: finite numbers of the type of `bound`, and above it."""
    return _number(type(bound), lambda value: value > bound, f" above {bound:g}")


def _number(
    kind: type[float], holds: Callable[[float], bool], range_: str
) -> Callable[[str], float]:
    """range_: the numbers for which `holds` is true, in words."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (holds(value) and value < math.inf):
            name = "a whole number" if kind is int else "a finite number"
            raise argparse.ArgumentTypeError(f"{text}; expected {name}{range_}")
        return value

    return convert


def command(main: Callable[[list[str]], int]) -> Callable[..., NoReturn]:
    """Wrap `main(argv) -> exit status`: it exits, and ValueError and OSError become one line.

    Other exceptions are defects of the program and keep their traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> NoReturn:
        try:
            status = main(sys.argv[1:] if argv is None else argv)
        except (ValueError, OSError) as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            status = BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted; run the same command again to continue", file=sys.stderr)
            status = INTERRUPTED
        sys.exit(status)

    return run


def as_program(main: Callable[[], object]) -> NoReturn:
    """Call a command that is this process's program, and end the process with its exit status.

    What was registered with `atexit` is run and what was printed is flushed; the interpreter's own
    end is left out. Threads of Ray, gRPC and MLflow outlive all that Python can join, and one that
    wakes while the interpreter is taken down ends the process by SIGABRT, or never.
    """
    status: object = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit((status or 0) & 0xFF)


def one_line(text: str) -> str:
    """`text` with every run of white space, line breaks included, as one space.

    Other characters that cannot be printed are escaped: a terminal would obey them.
    """
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def without_password(text: str) -> str:
    """A URI, or a text that holds some, with `***` in the place of passwords, to be printed."""
    http = re.sub(r"(https?://[^\s/:@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"((?<!http)(?<!https)://[^\s/:@]*):[^\s@]*@", r"\1:***@", http)
