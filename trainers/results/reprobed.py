"""Probes run again on a finished trial: their results beside it, by name and version.

    TRIAL/probes/linear-v2.json
    TRIAL/probes/robustness-v8-0c9f5a1e.json      under other settings than the trial's own

hold the probe's name and version, its settings, the sha256 of the student's weights, what was
read (`source`, as in result.json), and the metrics, teacher, arrays and undefined. One is read
only where all of that is still so: see `read_probed`. A checkpoint's lie in a folder of their
own, probes/step-00000123/, which is never read here: they are not the trial's result.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from shards.support import storage
from trainers.config.schema import TrialConfig
from trainers.probes import PROBES
from trainers.probes.names import metric_of
from trainers.results.folder import read_json, student_sha256

FORMAT = "probe-result/1"
FOLDER = "probes"
FILE = re.compile(r"([A-Za-z0-9_]+)-v([0-9]+)(?:-([0-9a-f]{8}))?\.json")
SETTINGS = (
    "test_arms",
    "test_views",
    "adapt_arms",
    "arm",
    "input",
    "classes",
    "data_seed",
)
VALUES = ("metrics", "teacher", "arrays", "undefined")
Record = dict[str, Any]


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """The fields of a trial that a probe's values hang on, beside weights and images."""
    return config.model_dump(mode="json", include=set(SETTINGS))


def probed_file(folder: str, probe: str, config: TrialConfig, own: TrialConfig) -> str:
    """Where this code's version of a probe leaves its result, in a trial's probes/.

    `own`: the trial as it was trained. Each other set of settings has a file of its own.
    """
    settings = settings_of(config)
    plain = _plain(probe, PROBES[probe].version)
    name = plain if settings == settings_of(own) else _marked(plain, settings)
    return storage.join(folder, name)


def _plain(probe: object, version: object) -> str:
    return f"{probe}-v{version}.json"


def _marked(plain: str, settings: object) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return plain.replace(".json", f"-{digest}.json")


def key_of(probed: Record) -> dict[str, Any]:
    """What two results must agree in to be the same measurement."""
    names = ("format", "probe", "version", "settings", "student_sha256", "source")
    return {name: probed.get(name) for name in names}


def read_probed(place: str, record: Record) -> tuple[list[Record], list[str]]:
    """(results that belong to this trial and this code, a line for each that was passed over).

    place: the trial's folder; record: its result.json. Raises: ValueError for a file that is not
    JSON; OSError.
    """
    found: list[Record] = []
    passed_over: list[str] = []
    folder = storage.join(place, FOLDER)
    files = [name for name in storage.names(folder) if FILE.fullmatch(name)]
    files.sort(key=lambda name: (name.rpartition("-v")[0], len(name), name))  # the trial's first
    sha256 = student_sha256(place, record) if files else ""
    for name in files:
        file = storage.join(folder, name)
        probed = read_json(file)
        plain = _plain(probed.get("probe"), probed.get("version"))
        right = name in (plain, _marked(plain, probed.get("settings")))
        problem = _problem(probed, record, sha256) if right else f"holds {plain}"
        if problem:
            passed_over.append(f"{file}: {problem}")
        else:
            found.append(probed)
    return found, passed_over


def _problem(probed: Record, record: Record, sha256: str) -> str:
    """Why a result is not used; nothing for one that is."""
    name, version = str(probed.get("probe")), probed.get("version")
    if probed.get("format") != FORMAT:
        return f"format is {probed.get('format')!r}, expected {FORMAT!r}"
    if name not in PROBES:
        return f"there is no probe `{name}` now"
    if version != PROBES[name].version:
        return (
            f"version {version} of `{name}` is stale, this code has {PROBES[name].version}; "
            "trainers.probe measures it again"
        )
    if probed.get("student_sha256") != sha256:
        return "of other weights than the student's here"
    if probed.get("source") != record.get("source"):
        return "of other images, draws or teacher weights than the trial's"
    return ""


def stale(record: Record) -> dict[str, tuple[int, int]]:
    """{probe: (version in the record, version of this code)} where they differ.

    0 stands for a record from before versions were kept.
    """
    told = record.get("probe_versions", {})
    probes = [name for name in record["config"]["probes"] if name in PROBES]
    pairs = {name: (int(told.get(name, 0)), PROBES[name].version) for name in probes}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def merged(record: Record, probed: list[Record]) -> Record:
    """The trial's record with results of probes run again; the record itself is left alone.

    A result of another version than the record's takes the place of all that the probe gave; one
    of the same version adds names that are not there (arms that the trial was not measured
    under) or had no value. What is there stays: means over arms, for one, hang on which arms
    there were.
    """
    for one in probed:
        probe = one["probe"]
        new = added(record, one)
        kept = record if _same_version(record, one) else without(record, probe)
        parts: Record = {
            part: kept.get(part, {}) | new[part] for part in ("metrics", "teacher", "arrays")
        }
        told = {name for part in ("metrics", "teacher", "arrays") for name in new[part]}
        undefined = dict.fromkeys([*kept.get("undefined", []), *new["undefined"]])
        parts["undefined"] = [name for name in undefined if name not in told]
        versions = record.get("probe_versions", {}) | {probe: one["version"]}
        record = kept | parts | {"probe_versions": versions}
    return record


def added(record: Record, probed: Record) -> Record:
    """What a result has that the record has not: all of it where the versions differ."""
    if not _same_version(record, probed):
        return probed
    parts = ("metrics", "teacher", "arrays")
    known = {name for part in parts for name in record.get(part, ())}
    new: Record = {
        part: {name: value for name, value in probed[part].items() if name not in known}
        for part in parts
    }
    known |= set(record.get("undefined", ()))
    new["undefined"] = [name for name in probed["undefined"] if name not in known]
    return probed | new


def _same_version(record: Record, probed: Record) -> bool:
    return record.get("probe_versions", {}).get(probed["probe"]) == probed["version"]


def without(record: Record, probe: str) -> Record:
    """The record without what a probe gave, by `trainers.probes.names`."""

    def others(name: str) -> bool:
        metric = metric_of(name)
        return metric is None or metric.probe != probe

    parts = {part: record.get(part, {}) for part in ("metrics", "teacher", "arrays")}
    left: dict[str, Any] = {
        part: {name: value for name, value in values.items() if others(name)}
        for part, values in parts.items()
    }
    left["undefined"] = [name for name in record.get("undefined", []) if others(name)]
    versions = {n: v for n, v in record.get("probe_versions", {}).items() if n != probe}
    return record | left | {"probe_versions": versions}
