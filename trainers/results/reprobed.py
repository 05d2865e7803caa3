"""Probes run again on a finished trial: files beside its result, by probe, version and settings.

    TRIAL/probes/linear-v2.json
    TRIAL/probes/robustness-v8-0c9f5a1e.json      under other settings than the trial's own

A file holds the probe's result and all that its values depend on: settings, the sha256 of the
student's weights, and `source`, the hash of what was read. It is used only where all of that still
holds (`read_reprobed`). Files made from a checkpoint lie in probes/step-00000123/, which is never
read here: they do not belong to the trial's result.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from shards.support import storage
from shards.support.schema import validated
from trainers.config.schema import TrialConfig
from trainers.probes import PROBES
from trainers.results import format1
from trainers.results.folder import read_json, student_sha256
from trainers.results.record import Environment, Part, ProbeResult, TrialResult

FORMAT = "probe-result/2"
FOLDER = "probes"
FILE = re.compile(r"([A-Za-z0-9_]+)-v([0-9]+)(?:-([0-9a-f]{8}))?\.json")
SETTINGS = (  # fields of a trial that a probe's values depend on, beside weights and images
    "test_arms",
    "test_views",
    "adapt_arms",
    "arm",
    "input",
    "classes",
    "data_seed",
)


class Measurement(Part):
    """What a probe was run on. Equal measurements give equal values."""

    probe: str
    version: int
    settings: dict[str, Any]
    student_sha256: str
    source: str

    def key(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


class Reprobed(Part):
    """One file. trial: the id, None for a student alone."""

    format: Literal["probe-result/2"] = FORMAT
    probe: str
    settings: dict[str, Any]
    trial: str | None
    student_sha256: str
    source: str
    environment: Environment
    values: ProbeResult

    @property
    def measurement(self) -> Measurement:
        return Measurement(
            probe=self.probe,
            version=self.values.version,
            settings=self.settings,
            student_sha256=self.student_sha256,
            source=self.source,
        )


def parse_reprobed(document: dict[str, Any], where: str = "") -> Reprobed:
    """A file of this format or of format 1. Raises: ValueError that begins with `where`."""
    if document.get("format") == format1.PROBED:
        document = format1.upgrade_probed(document)
    return validated(Reprobed, document, where)


# ---- file names ----


def settings_of(config: TrialConfig) -> dict[str, Any]:
    """SETTINGS of a trial, as JSON has them."""
    return config.model_dump(mode="json", include=set(SETTINGS))


def reprobed_file(folder: str, probe: str, config: TrialConfig, trained: TrialConfig) -> str:
    """Where the result of this code's version of a probe lies, in a trial's probes/.

    config: the trial under the settings to measure with; trained: as it was trained. Each other
    set of settings has a file of its own.
    """
    settings, version = settings_of(config), PROBES[probe].version
    plain, marked = _file_names(probe, version, settings)
    return storage.join(folder, plain if settings == settings_of(trained) else marked)


def _file_names(probe: str, version: int, settings: dict[str, Any]) -> tuple[str, str]:
    """(name under the trial's own settings, name under others)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{probe}-v{version}.json", f"{probe}-v{version}-{digest}.json"


# ---- reading ----


def read_reprobed(folder: str, result: TrialResult) -> tuple[list[Reprobed], list[str]]:
    """(files that belong to this trial and this code, one line for each file that does not).

    folder: the trial's. Files under the trial's own settings come first. Raises: ValueError for a
    file that is not JSON; OSError.
    """
    used: list[Reprobed] = []
    skipped: list[str] = []
    probes = storage.join(folder, FOLDER)
    names = [name for name in storage.names(probes) if FILE.fullmatch(name)]
    names.sort(key=lambda name: (name.rpartition("-v")[0], len(name), name))
    sha256 = student_sha256(folder, result) if names else ""
    for name in names:
        file = storage.join(probes, name)
        document = read_json(file)
        try:
            reprobed = parse_reprobed(document)
            _check(reprobed, name, result, sha256)
        except ValueError as error:
            skipped.append(f"{file}: {error}")
        else:
            used.append(reprobed)
    return used, skipped


def _check(reprobed: Reprobed, name: str, result: TrialResult, sha256: str) -> None:
    """Raises: ValueError saying why a file does not belong to a trial or to this code."""
    probe, version = reprobed.probe, reprobed.values.version
    names = _file_names(probe, version, reprobed.settings)
    if name not in names:
        raise ValueError(f"holds {names[0]}")
    if probe not in PROBES:
        raise ValueError(f"there is no probe `{probe}` now")
    if version != PROBES[probe].version:
        raise ValueError(
            f"version {version} of `{probe}` is outdated, this code has {PROBES[probe].version}; "
            "trainers.probe measures it again"
        )
    if reprobed.student_sha256 != sha256:
        raise ValueError("measured on other weights than those of this trial's student")
    if reprobed.source != result.source:
        raise ValueError("measured on other images, draws or teacher weights than the trial's")


def outdated(result: TrialResult) -> dict[str, tuple[int, int]]:
    """{probe: (version in the result, version of this code)} where they differ.

    Version 0 stands for a result from before versions were kept.
    """
    pairs = {n: (v, PROBES[n].version) for n, v in result.versions().items() if n in PROBES}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
