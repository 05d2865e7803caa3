"""A run's journal, read back: the record of every trial, with the probes that were run again.

A journal may hold values of one probe in several versions: they never meet in one record, nor in
one comparison.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.results.reprobed import merged, without

Record = dict[str, Any]
JOURNAL = "journal.jsonl"
REPLICATE = "seed"  # the one field of a configuration that may differ inside a group
NEEDED = {  # of each event that is read
    "result": [f"config.{name}" for name in ("dataset", "teacher", "student", "arm", REPLICATE)]
    + ["metrics", "data.train", "data.test", "student.total"],
    "failed": ["config"],
    "probe": [f"result.{name}" for name in ("probe", "version", "metrics", "teacher", "arrays")],
}


@dataclass(frozen=True)
class Run:
    """Results of one sweep, and the trials that failed and have no later result.

    notes: what was left out of the records so that every metric is of one version of its probe.
    """

    records: list[Record]
    failures: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(run_dir: str | Path) -> Run:
    """Records and failures of RUN/journal.jsonl, in the order of their last event.

    The last result of a trial wins; a failure counts unless a result of that trial follows it.
    Probes that were run again join their trial's record; see `agreed`.
    Unknown events and a last line cut short are ignored. ValueError for a missing file, and by
    file and line for any other line that cannot be read.
    """
    path = Path(run_dir) / JOURNAL
    if not path.is_file():
        what = f"no {JOURNAL} in it" if Path(run_dir).is_dir() else "no such folder"
        raise ValueError(f"{run_dir}: {what}; expected a run folder written by `sweep.run`")
    records: dict[str, Record] = {}
    failures: dict[str, Record] = {}
    probed: dict[str, list[Record]] = {}
    lines = path.read_bytes().split(b"\n")  # an empty piece follows the last line, unless cut
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line) if line.strip() else {}
            problem = _problem(event)
        except ValueError as error:
            event, problem = {}, f"not JSON ({error}); expected one object a line"
        if problem and number < len(lines):
            raise ValueError(f"{path}:{number}: {problem}")
        kind, trial = ("", "") if problem else (event.get("event"), str(event.get("trial")))
        if kind == "result":
            failures.pop(trial, None)
            records.pop(trial, None)  # so that it takes the last place
            records[trial] = {"id": trial, **event["record"]}
        elif kind == "failed":
            failures[trial] = {"id": trial, **event}
        elif kind == "probe":
            probed.setdefault(trial, []).append(event["result"])
    whole = [merged(record, probed.get(trial, [])) for trial, record in records.items()]
    kept, notes = agreed(whole)
    return Run(kept, list(failures.values()), notes)


def agreed(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Each probe's values in one version, the newest there is; those of others left out, named.

    A version of 0 is that of a record from before versions were kept.
    """
    notes: list[str] = []
    names = dict.fromkeys(p for r in records for p in r["config"].get("probes", ()))
    names |= dict.fromkeys(p for r in records for p in r.get("probe_versions", {}))
    for name in names:
        versions = [_version(record, name) for record in records]
        newest = max(v for v in versions if v is not None)
        old = [v is not None and v < newest for v in versions]
        if any(old):
            records = [without(r, name) if was else r for r, was in zip(records, old, strict=True)]
            notes.append(
                f"{sum(old)} trials were measured by an older version of `{name}` than the newest "
                f"here ({newest}); their values are left out: run trainers.probe on the run, then "
                "sweep.run again"
            )
    return records, notes


def _version(record: Record, probe: str) -> int | None:
    """None where the trial was not measured by this probe."""
    versions = record.get("probe_versions", {})
    if probe in versions:
        return int(versions[probe])
    return 0 if probe in record["config"].get("probes", ()) else None


def _problem(event: Any) -> str:
    """What is wrong with an event and what would be right; nothing for one to be ignored."""
    if not isinstance(event, dict):
        return f"got {str(event)[:40]!r}; expected a JSON object"
    kind = str(event.get("event"))
    if kind not in NEEDED:
        return ""
    if not isinstance(event.get("trial"), str):
        return f"trial: got {event.get('trial')!r}; expected the id of a trial"
    where, held = ("record.", event.get("record")) if kind == "result" else ("", event)
    for path in NEEDED[kind]:
        part, _, name = path.partition(".")
        found = held.get(part) if isinstance(held, dict) else None
        if not isinstance(found, dict):
            return f"{where}{part}: got {str(found)[:40]!r}; expected a JSON object"
        if name and name not in found:
            return f"{where}{path}: missing; expected beside {', '.join(sorted(found)) or 'none'}"
    return ""
