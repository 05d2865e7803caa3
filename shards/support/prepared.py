"""A command in a process that imports what it needs before its arguments are known.

    python -m shards.support.prepared COMMAND [MODULE ...]

It imports all of these modules, reads the command's arguments from its standard input, a list of
strings as one line of JSON, and does what `python -m COMMAND` does with them. Without such a line
it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys

from shards.support.memory import collecting_later


def main(modules: list[str]) -> None:
    # Nothing is lost while it imports, and there is nothing to say: who has started it ends it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with collecting_later():
        for module in modules:
            with contextlib.suppress(ImportError):  # whoever needs it says so
                importlib.import_module(module)
    line = sys.stdin.readline()
    if not line:
        return
    signal.signal(signal.SIGINT, handler)
    importlib.import_module(modules[0]).main(json.loads(line))


if __name__ == "__main__":
    main(sys.argv[1:])
