"""Run a small real sweep under random faults, again and again, and check what must hold.

    make chaos                                # 200 kills and other faults, at most 60 minutes
    python -m tests.faults.chaos.run --injections 30 --minutes 20
    python -m tests.faults.chaos.run --seed 7 --rounds 1 --work /tmp/seven     # repeat one round

Each round draws from its seed: which faults, when, and whom they hit. Rounds go to results.json as
they end, and docs/reliability.md gets the table of them. The same command goes on with the next
seed until there are as many kills as requested; `--fresh` forgets the earlier ones. What fails
is named with its seed, and its folder is kept. When a fault hits depends on the machine as well, so
a repeated round meets the same faults in the same order, but not at the same instruction.

Exit status: 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.origin import commit, machine
from tests.faults.chaos.disturbed import described
from tests.faults.chaos.faults import FAULTS
from tests.faults.chaos.invariants import INVARIANTS, control_of
from tests.faults.chaos.rounds import SAVE_SECONDS, Round, run_control, run_round

HERE = Path(__file__).parent
RESULTS, GRID = HERE / "results.json", HERE / "grid.yaml"
PAGE = HERE.parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- table: make chaos -->", "<!-- end of table -->"
FAULTS_A_ROUND = 130  # more than there is time for: the last trials are disturbed as well
# How often each kill is drawn for each other fault. Most processes of a sweep are trials and ranks.
KILLS = {"trial": 24, "rank": 24, "driver": 6, "raylet": 6, "gcs": 6}
# Only with --fault: two sweeps that share a machine make the times of all later faults longer.
APART = "second"
LIMIT = 300.0  # seconds in which work must go on; on an idle machine it takes about ten


def draw(seed: int, names: list[str], kills: int = FAULTS_A_ROUND) -> list[str]:
    """The faults of a round, with so many kills at most; the sweep's end may cut them short."""
    weights = [KILLS.get(name, 1) for name in names]
    drawn = random.Random(seed).choices(names, weights, k=FAULTS_A_ROUND)
    ends = [at for at, name in enumerate(drawn, 1) if name in KILLS]
    return drawn[: ends[kills - 1]] if kills < len(ends) else drawn


def kills_of(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All SIGKILLs of ranks, trials, drivers, raylets and control processes."""
    return [i for r in rounds for i in r["injections"] if i["fault"] in KILLS]


def table(record: dict[str, Any]) -> str:
    """All rounds of `record` as Markdown."""
    rounds = record["rounds"]
    lines = [
        "| fault | times | while a file was written | invariants held | "
        "median time until work went on | longest |",
        "|---|---|---|---|---|---|",
    ]
    for name, (what, _) in FAULTS.items():
        having = [r for r in rounds if any(i["fault"] == name for i in r["injections"])]
        hits = [i for r in having for i in r["injections"] if i["fault"] == name]
        if not hits:
            continue
        times = [i["seconds"] for i in hits if i["seconds"] is not None]
        held = sum(not r["violations"] for r in having)
        saving = sum(i["phase"] == "saving" for i in hits)
        spans = [f"{statistics.median(times):.0f} s", f"{max(times):.0f} s"] if times else ["", ""]
        cells = [what, str(len(hits)), str(saving), f"in {held} of {len(having)} rounds", *spans]
        lines.append("| " + " | ".join(cells) + " |")
    total = sum(len(r["injections"]) for r in rounds)
    minutes = sum(r["seconds"] for r in rounds) / 60
    seeds = f"seeds {rounds[0]['seed']} to {rounds[-1]['seed']}" if rounds else "no seed"
    where = record["machine"]
    kills = kills_of(rounds)
    spans = [i["seconds"] for i in kills if i["seconds"] is not None]
    late = f"{statistics.quantiles(spans, n=20)[-1]:.0f} s" if len(spans) > 1 else "unknown"
    lines += [
        "",
        f"{total} faults in {len(rounds)} rounds of nine trials ({seeds}), {minutes:.0f} minutes, "
        f"{record['date']}, commit {record['commit']}, {where['processor']}, {where['cores']} "
        f"cores, load {record['load']:.0f} on average. Of {len(kills)} SIGKILLs of ranks, trials, "
        f"drivers and Ray's processes {sum(i['phase'] == 'saving' for i in kills)} fell inside a "
        f"save or a publish; after 95 % of them work went on within {late}. The invariants: "
        + "; ".join(INVARIANTS.values())
        + f". {done_again(rounds)}",
    ]
    failed = [f"seed {r['seed']}: {line}" for r in rounds for line in r["violations"]]
    return "\n".join([*lines, *(f"\n* {line}" for line in failed)])


def done_again(rounds: list[dict[str, Any]]) -> str:
    """What was trained a second time. Rounds of earlier versions, and hung ones, do not say so."""
    said, parts = [r["redone"] for r in rounds if r.get("redone") is not None], list[str]()
    if said:
        attempts, after = (sum(r[name] for r in said) for name in ("attempts", "from_checkpoint"))
        steps, seconds = (max(r[name] for r in said) for name in ("steps", "seconds"))
        parts.append(
            f"{attempts} attempts followed another one of their trial, {after} of them after a "
            f"checkpoint had been seen; one was due every {SAVE_SECONDS} s. By the rows of their "
            f"journals they trained at most {steps} steps a second time (an epoch has four), and "
            f"at most {seconds:.2f} s lay between the first and the last row of these."
        )
    if len(said) < len(rounds):
        parts.append(
            f"In {len(rounds) - len(said)} of {len(rounds)} rounds what was trained a second time "
            "was not recorded, and the last invariant not checked."
        )
    return " ".join(parts)


def write_page(record: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}")


def _record(fresh: bool) -> dict[str, Any]:
    if RESULTS.exists() and not fresh:
        return json.loads(RESULTS.read_text())
    return {"machine": machine(), "load": 0.0, "rounds": []}


def _store(record: dict[str, Any], done: Round) -> None:
    count = len(record["rounds"])
    record["load"] = round((record["load"] * count + os.getloadavg()[1]) / (count + 1), 1)
    record["rounds"].append(asdict(done))
    record |= {"date": datetime.date.today().isoformat(), "commit": commit()}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    write_page(record)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--injections", type=int, default=200, help="so many kills")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="after these only the sweep at work is ended"
    )
    parser.add_argument("--rounds", type=int, help="so many rounds, instead of so many kills")
    parser.add_argument("--seed", type=int, help="of the first round (default: the next one)")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only these")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for work to go on")
    parser.add_argument("--work", type=Path, help="folder of the runs (default: a temporary one)")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds in results.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the sweep at work is ended too
    record, start = _record(options.fresh), time.monotonic()
    end = start + 60 * options.minutes
    work = options.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    if not (work / "control" / "run" / "trials").exists():
        (work / "control").mkdir(parents=True)
        print(f"the undisturbed sweep, in {work / 'control'}", flush=True)
        run_control(GRID, work / "control")
    control = control_of(work / "control" / "run")
    seeds = [r["seed"] for r in record["rounds"]]
    seed = options.seed if options.seed is not None else max(seeds, default=-1) + 1
    failed, rounds = 0, 0
    ending: list[psutil.Process] = []  # of the round before
    while time.monotonic() < end and (options.rounds is None or rounds < options.rounds):
        kills = options.injections - len(kills_of(record["rounds"]))
        if options.rounds is None and kills <= 0:
            break
        kills = kills if options.rounds is None else FAULTS_A_ROUND
        names = draw(seed, options.fault or [name for name in FAULTS if name != APART], kills)
        print(f"seed {seed}: {', '.join(names)}", flush=True)
        folder = work / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        done = run_round(
            GRID, folder, work / "control" / "run", control, seed, names, options.limit,
            (late := []), until=end, say=lambda line: _say(start, line),
        )  # fmt: skip
        done.violations += [f"I5: left of the round before: {described(p)}" for p in _alive(ending)]
        ending = late
        _store(record, done)
        print(f"  {done.seconds:.0f} s, exit statuses {done.codes}", flush=True)
        for line in done.violations:
            print(f"  seed {seed}: did not hold: {line}", flush=True)
        if done.violations:
            failed += 1
            print(f"  kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder)
        seed, rounds = seed + 1, rounds + 1
    print(table(record))
    return int(bool(failed))


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=0)[1]


def _say(start: float, line: str) -> None:
    print(f"{time.monotonic() - start:6.0f} s {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
