"""Convert results of format 1, before values were kept by probe, to the present format.

Format 1 held all metrics of a trial in one mapping. Which probe had yielded a value is inferred
from the metric names that each probe declares (`trainers.probes.names`); nothing else needs that.
The functions take and return plain JSON objects, which the classes of the present format validate.
"""

from __future__ import annotations

from typing import Any

from trainers.probes.names import metric_of

RESULT = "trial-result/1"
PROBED = "probe-result/1"
KEPT = ("id", "config", "source", "weights_sha256", "data", "input", "student", "environment")
PARTS = ("metrics", "teacher", "arrays")
OBSERVED = "curves"  # in the glossary: metrics of no probe, recorded while the student trained
UNDECLARED = "undeclared"  # entry for values that the glossary does not have, of a user's probe
Document = dict[str, Any]


def upgrade_result(old: Document, where: str = "") -> Document:
    """A result.json of format 1 in the present format.

    A probe without a version, written before versions were stored, gets 0, older than any other.
    Raises: ValueError for an object whose parts are not those of format 1.
    """
    try:
        return _upgrade(old)
    except (AttributeError, KeyError, TypeError) as error:
        prefix = f"{where}: " if where else ""
        raise ValueError(
            f"{prefix}not a whole {RESULT} ({type(error).__name__}: {error}); expected objects "
            f"config, {', '.join(PARTS)} and lists curve, curves"
        ) from None


def _upgrade(old: Document) -> Document:
    versions: dict[str, int] = old.get("probe_versions", {})
    probes: dict[str, Document] = {}

    def entry(probe: str) -> Document:
        fresh: Document = {"version": versions.get(probe, 0), "undefined": []}
        return probes.setdefault(probe, fresh | {part: {} for part in PARTS})

    for name in (*old["config"].get("probes", ()), *versions):
        entry(name)
    reference: dict[str, float] = {}
    for part in PARTS:
        for name, value in old.get(part, {}).items():
            probe = _probe_of(name)
            if probe == OBSERVED:
                reference[name.removeprefix("teacher/curve/")] = value
            else:
                entry(probe)[part][name] = value
    for name in old.get("undefined", []):
        entry(_probe_of(name))["undefined"].append(name)
    rows = [_observation(row) for row in old.get("curves", [])]
    kept = {name: old[name] for name in KEPT if name in old}
    return kept | {
        "format": "trial-result/2",
        "probes": probes,
        "epochs": old.get("curve", []),
        "observations": {"rows": rows, "teacher": reference},
    }


def _probe_of(name: str) -> str:
    metric = metric_of(name)
    return metric.probe if metric else UNDECLARED


def _observation(row: Document) -> Document:
    values = {name: value for name, value in row.items() if name not in ("step", "epoch")}
    return {"step": row["step"], "epoch": row["epoch"], "values": values}


def upgrade_probed(old: Document) -> Document:
    """A file of a probe run again, of format 1, in the present format."""
    inner = ("version", *PARTS, "undefined")
    outer = {name: value for name, value in old.items() if name not in inner}
    return outer | {
        "format": "probe-result/2",
        "values": {name: old[name] for name in inner if name in old},
    }
