"""What checksums and fsync take of a trial of about a minute.

    python benchmarks/durability.py              # --epochs N: a shorter or longer trial

One trial on scikit-learn's digits runs in this process: bank read and verified, journal, adaptive
checkpoints, probes, result. Every sha256 and every fsync is timed by the wall clock, on the disk of
the temporary directory. Ends with 1 where they take more than LIMIT of the trial's time.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ratios import Ratio, finish

LIMIT = 0.03


class Clock:
    """Wall seconds spent in some functions, and how often they were called."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return call


class Sha256:
    """hashlib.sha256, whose time is counted."""

    def __init__(self, clock: Clock, real: Callable[..., Any], data: bytes, **named: Any) -> None:
        self._digest = clock.timed(real)(data, **named)
        self.update = clock.timed(self._digest.update)
        self.digest, self.hexdigest = self._digest.digest, self._digest.hexdigest


def main() -> int:
    from shards.support.memory import keep_freed_memory
    from trainers.canonical import make_config
    from trainers.runner import run_trial

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--epochs", type=int, default=75)
    epochs = parser.parse_args().epochs
    keep_freed_memory()
    fields = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
    with tempfile.TemporaryDirectory() as folder:
        bank = f"{folder}/bank"
        build = ["-m", "shards.build", "--dataset", "digits", "--teacher", "embedded"]
        subprocess.run([sys.executable, *build, "--out", bank], check=True, capture_output=True)
        syncs, sums, real = Clock(), Clock(), hashlib.sha256
        os.fsync = syncs.timed(os.fsync)
        hashlib.sha256 = lambda data=b"", **named: Sha256(sums, real, data, **named)  # type: ignore
        start = time.perf_counter()
        run_trial(make_config(fields | {"epochs": epochs}), bank, f"{folder}/out", device="cpu")
        whole = time.perf_counter() - start
    text = (
        f"{sums.calls} sums in {sums.seconds:.2f} s, {syncs.calls} fsyncs in {syncs.seconds:.2f} s "
        f"of {whole:.0f} s"
    )
    share = (sums.seconds + syncs.seconds) / whole
    what = "share of checksums and fsync in a trial of about a minute"
    return finish([Ratio(what, share, LIMIT, False, text)])


if __name__ == "__main__":
    sys.exit(main())
