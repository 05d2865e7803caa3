"""Probes that were run again on a finished trial: one file for each probe, version and settings.

    TRIAL/probes/linear-v2.json
    TRIAL/probes/robustness-v8-0c9f5a1e.json      under settings that are not the trial's

A file holds the probe's result and all that its values depend on: settings, the sha256 of the
student's weights, and `source`, the hash of what was read. It is used only where all of these are
still those of the trial (`read_reprobed`). Files of a checkpoint are written to
probes/step-00000123/ and are not read: they do not belong to the trial's result.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from shards.arms import ARMS
from shards.support import storage
from shards.support.registry import plugins_of
from shards.support.schema import validated
from trainers.config.schema import PLUGINS, TrialConfig
from trainers.probes import PROBES
from trainers.results import format1
from trainers.results.folder import read_json, student_sha256
from trainers.results.record import Environment, Part, ProbeResult, TrialResult
from trainers.students import STUDENTS

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
    """All that the values of a probe depend on. Equal measurements give equal values."""

    probe: str
    version: int
    settings: dict[str, Any]
    student_sha256: str
    source: str

    def key(self) -> str:
        """The measurement as text, equal for equal measurements."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


class Reprobed(Part):
    """The content of one file.

    trial: the identity, None for a student without a trial. environment: in which it was measured.
    For the other fields see `Measurement` and `ProbeResult`.
    """

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
        """What the values depend on."""
        return Measurement(
            probe=self.probe,
            version=self.values.version,
            settings=self.settings,
            student_sha256=self.student_sha256,
            source=self.source,
        )


def parse_reprobed(document: dict[str, Any], where: str = "") -> Reprobed:
    """The content of a file of this format or of format 1.

    where: the file, for messages. Raises: ValueError for any other format or damaged fields.
    """
    if document.get("format") == format1.PROBED:
        document = format1.upgrade_probed(document)
    return validated(Reprobed, document, where)


# ---- file names ----


def settings_of(config: TrialConfig, probe: str) -> dict[str, Any]:
    """{field: value as JSON stores it} of the trial's fields in SETTINGS.

    Where plugins registered the probe, the student or an arm, `plugins` names them as well.
    """
    settings = config.model_dump(mode="json", include=set(SETTINGS))
    arms = ((ARMS, spec) for spec in (config.arm, *config.test_arms, *config.adapt_arms))
    plugins = plugins_of((PROBES, probe), (STUDENTS, config.student), *arms)
    return settings | ({PLUGINS: list(plugins)} if plugins else {})


def reprobed_file(folder: str, probe: str, config: TrialConfig, trained: TrialConfig) -> str:
    """The file in `folder` for the result of a probe, in the version of this code.

    config: the trial with the settings to measure under. trained: the trial as it was trained. Each
    set of settings that differs from the trial's has a separate file.
    """
    settings, version = settings_of(config, probe), PROBES[probe].version
    plain, marked = _file_names(probe, version, settings)
    return storage.join(folder, plain if settings == settings_of(trained, probe) else marked)


def _file_names(probe: str, version: int, settings: dict[str, Any]) -> tuple[str, str]:
    """(name under the trial's settings, name under any others)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{probe}-v{version}.json", f"{probe}-v{version}-{digest}.json"


# ---- reading ----


def read_reprobed(folder: str, result: TrialResult) -> tuple[list[Reprobed], list[str]]:
    """(files that belong to this trial and this code, one line for each file that does not).

    folder: the trial's. Of a probe's files, that under the trial's settings comes first. Raises:
    ValueError for a file that is not JSON; OSError.
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
    """Check that a file belongs to the trial and this code. Raises: ValueError with the reason."""
    probe, version = reprobed.probe, reprobed.values.version
    names = _file_names(probe, version, reprobed.settings)
    if name not in names:
        raise ValueError(f"its content is that of {names[0]}; rename or delete it")
    if probe not in PROBES:
        raise ValueError(f"this code has no probe `{probe}`")
    if version != PROBES[probe].version:
        raise ValueError(
            f"version {version} of `{probe}` is outdated, this code has {PROBES[probe].version}; "
            "trainers.probe measures it again"
        )
    plugin = PROBES.plugins.get(probe)
    if plugin and plugin not in reprobed.settings.get(PLUGINS, []):
        raise ValueError(
            f"measured by another source of its plugin than {plugin}; trainers.probe measures it "
            "again"
        )
    if reprobed.student_sha256 != sha256:
        raise ValueError("measured on other weights than those of this trial's student")
    if reprobed.source != result.source:
        raise ValueError("measured on other images, arms, prompts or weights than the trial's")


def outdated(result: TrialResult) -> dict[str, tuple[int, int]]:
    """{probe: (version in the result, version of this code)} where they differ.

    Version 0 is that of results written before versions were stored.
    """
    pairs = {n: (v, PROBES[n].version) for n, v in result.versions().items() if n in PROBES}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
