"""All benchmarks whose result is a ratio, one after the other, and their table.

    make bench                                    # or python benchmarks/run_all.py
    python benchmarks/run_all.py --only train_step --only spectrum

Each runs in a process of its own. Its ratios go to benchmarks/results/NAME.json with the machine,
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
from pathlib import Path

from origin import commit, machine
from ratios import RESULTS, Ratio

HERE = Path(__file__).parent
STORED = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table: benchmarks/run_all.py -->", "<!-- end of table -->"
COMMANDS = {  # the quick ones first
    "shard_bytes": [],
    "spectrum": [],
    "preprocess": [],
    "read_shards": [],
    "build_rate": [],
    "linear_probe": ["--classes", "10", "--solvers", "sklearn lbfgs", "scipy trust-ncg"],
    "freed_memory": [],
    "durability": [],
    "packing": [],
    "growth": [],
    "probe_memory": [],
    "train_step": [],
    "whole_grid": [],
    "mlflow_cost": [],
    "trial_overhead": [],
    "many_trials": [],  # ten minutes and more
}


def run(name: str) -> bool:
    """Run one benchmark and store its ratios; whether all its limits were reached."""
    print(f"\n== {name}", flush=True)
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, str(HERE / f"{name}.py"), *COMMANDS[name]]
        status = subprocess.run(command, env=os.environ | {RESULTS: file.name}, check=False)
        rows = json.loads(file.read() or "[]")
    if rows:
        STORED.mkdir(exist_ok=True)
        record = {
            "command": " ".join(["python", f"benchmarks/{name}.py", *COMMANDS[name]]),
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "seconds": round(time.monotonic() - start),
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
    chosen = parser.parse_args().only or list(COMMANDS)
    reached = [run(name) for name in chosen]
    write_page()
    print(f"\n{table()}")
    return int(not all(reached))


if __name__ == "__main__":
    sys.exit(main())
