"""All benchmarks whose result is a ratio, one after the other, and their table.

    make bench                                    # or python benchmarks/run_all.py
    python benchmarks/run_all.py --only train_step --only spectrum
    python benchmarks/run_all.py --all            # mlflow_cost and many_trials as well: the longest

Each runs in a process of its own; those that count the CPU seconds of one thread run two at a time
where there are two cores. Its ratios go to benchmarks/results/NAME.json with the machine,
the commit and the date; docs/performance.md gets one table of all results that are there. Ends
with 1 where a benchmark failed or missed a limit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from origin import commit, machine
from ratios import RESULTS, Ratio

HERE = Path(__file__).parent
STORED = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table: benchmarks/run_all.py -->", "<!-- end of table -->"
PEERS = ("sklearn lbfgs", "scipy trust-ncg")  # the fastest others of the linear probe
COMMANDS = {
    "preprocess": [],
    "read_shards": [],
    "build_rate": [],
    "shard_bytes": [],
    "spectrum": [],
    "freed_memory": [],
    "train_step": [],
    "whole_grid": [],
    "durability": [],
    "trial_overhead": [],
    "growth": [],
    "probe_memory": [],
    "probe_peers": [],
    "linear_probe": ["--samples", "20000", "--classes", "10", "--solvers", *PEERS],
    "packing": [],
    "mlflow_cost": [],
    "many_trials": [],
}
LONG = ("mlflow_cost", "many_trials")  # only with --only or --all
# These count the CPU seconds of one thread.
PAIRED = ("growth", "probe_memory", "freed_memory", "linear_probe", "probe_peers", "packing")


def run(name: str) -> bool:
    """Run one benchmark and store its ratios; whether all its limits were reached."""
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, str(HERE / f"{name}.py"), *COMMANDS[name]]
        environment = os.environ | {RESULTS: file.name}
        status = subprocess.run(
            command, env=environment, check=False, stdout=subprocess.PIPE, text=True
        )
        rows = json.loads(file.read() or "[]")
    seconds = round(time.monotonic() - start)
    print(f"\n== {name}, {seconds} s\n{status.stdout}", end="", flush=True)
    if rows:
        STORED.mkdir(exist_ok=True)
        record = {
            "command": " ".join(["python", f"benchmarks/{name}.py", *COMMANDS[name]]),
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "seconds": seconds,
            "ratios": rows,
        }
        (STORED / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return status.returncode == 0


def table() -> str:
    """All stored ratios as a Markdown table."""
    lines = ["| what | ratio | wanted | measured | when and where |", "|---|---|---|---|---|"]
    for name in COMMANDS:
        file = STORED / f"{name}.json"
        if not file.exists():
            continue
        record = json.loads(file.read_text())
        where = f"{record['date']}, {record['commit']}, {record['machine']['processor']}"
        for row in record["ratios"]:
            ratio = Ratio(**row)
            wanted = ""
            if ratio.wanted is not None:
                wanted = f"{'at least' if ratio.at_least else 'at most'} {ratio.wanted:g}"
                wanted += "" if ratio.reached else " (not reached)"
            cells = [ratio.what, f"{ratio.value:.3g}", wanted, ratio.measured, where]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_page() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=COMMANDS, metavar="NAME")
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(LONG)}")
    options = parser.parse_args()
    chosen = options.only or [n for n in COMMANDS if options.all or n not in LONG]
    start = time.monotonic()
    reached = [run(name) for name in chosen if name not in PAIRED]
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pairs:
        reached += pairs.map(run, [name for name in chosen if name in PAIRED])
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes")
    write_page()
    print(f"\n{table()}")
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
