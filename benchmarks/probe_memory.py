"""Peak memory and time of every probe on 50,000 train and 10,000 test embeddings of 512 numbers.

    python benchmarks/probe_memory.py                # --only NAME: some of them

Each probe runs in a process of its own, one thread, on synthetic embeddings of ten classes, of a
student and its teacher. The peak is that of resident memory above what was held before: imports,
embeddings and labels. Ends with 1 where a probe needs more than LIMIT.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from forked import in_a_fork, with_one_thread
from growth import MIB, labelled, resident, rows
from ratios import Ratio, finish

from trainers.probes import PROBES, run_probes
from trainers.probes.features import FeatureBank, Stored, unit

TRAIN, TEST, WIDTH, CLASSES, ARM = 50_000, 10_000, 512, 10, "noise:0.1"
LIMIT = 1024.0  # MiB


def measure(name: str, train: int, test: int) -> dict[str, float]:
    """{seconds: CPU seconds, mib: peak above the input} of one probe."""

    def bank(train: int, test: int) -> FeatureBank:
        (train_ND, train_labels_N), (test_ND, test_labels_N) = (
            labelled(count, WIDTH, CLASSES) for count in (train, test)
        )
        train_ND, test_ND = unit(train_ND), unit(test_ND)
        noisy_ND = unit(test_ND + 0.2 * rows(test, WIDTH, seed=3))
        teacher_ND, teacher_train_ND = unit(noisy_ND), unit(train_ND + 0.2 * rows(train, WIDTH, 4))
        subject = Stored(
            {
                ("train", "clean", 0): train_ND,
                ("test", "clean", 0): test_ND,
                ("test", ARM, 0): noisy_ND,
            }
        )
        return FeatureBank(
            train_ND, train_labels_N, test_ND, test_labels_N, teacher_ND, teacher_train_ND, subject,
            text_CD=rows(CLASSES, WIDTH, seed=5), test_arms=(ARM,),
            classes=tuple(f"class {i}" for i in range(CLASSES)),
        )  # fmt: skip

    run_probes((name,), bank(400, 100), "test")  # first calls
    whole = bank(train, test)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before, start = resident("VmRSS"), time.process_time()
    run_probes((name,), whole, "test")
    seconds = time.process_time() - start
    return {"seconds": seconds, "mib": (resident("VmHWM") - before) / MIB}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", action="append", choices=PROBES, metavar="PROBE")
    parser.add_argument("--train", type=int, default=TRAIN)
    parser.add_argument("--test", type=int, default=TEST)
    options = parser.parse_args()
    sizes = f"{options.train:,} + {options.test:,} x {WIDTH}"
    ratios: list[Ratio] = []
    for name in options.only or PROBES:
        found = in_a_fork(measure, name, options.train, options.test)
        what = f"peak memory of the probe {name} over its input, {sizes}, against 1 GiB"
        text = f"{found['mib']:.0f} MiB, {found['seconds']:.1f} CPU s"
        ratios.append(Ratio(what, found["mib"] / LIMIT, 1.0, False, text))
        print(ratios[-1], text, sep=": ", flush=True)
    return finish(ratios)


if __name__ == "__main__":
    with_one_thread()
    sys.exit(main())
