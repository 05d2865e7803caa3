"""Test arms under which a bank holds the teacher, and those of which a stored result has no values.

A student is measured under every test arm, whatever its bank stores. Its teacher and `teacher_pca`
are measured under those arms alone of which the bank holds embeddings or figures. `source` leaves
the test arms out, so a bank that lacks some serves the same trial: its result has fewer values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from shards.arms import ARMS, make_arm
from shards.bank.manifest import Manifest
from shards.support.registry import plugins_of
from trainers.config.schema import TrialConfig
from trainers.probes import PROBES
from trainers.probes.robustness import FREQUENCY_FAMILIES, family
from trainers.results.record import ProbeResult
from trainers.students.teacher_pca import has_no_network


def figures_serve(config: TrialConfig) -> bool:
    """Whether the teacher's figures can take the place of its embeddings.

    They are of all classes and all dimensions, with classifiers fitted on all train images. So a
    trial on some classes needs embeddings, and so do one that holds images out and `teacher_pca`,
    which is made of the teacher's own dimensions. They name their arms alone, not the source that
    drew them, so a plugin's arm needs embeddings too.
    """
    whole = config.classes is None and not config.validation_samples
    of_plugins = plugins_of(*((ARMS, spec) for spec in config.test_arms))
    return whole and not has_no_network(config.student) and not of_plugins


def held_arms(config: TrialConfig, manifest: Manifest) -> set[str]:
    """The trial's test arms under which the bank holds the teacher.

    It holds embeddings of enough views, or figures (accuracy and rank, computed when the bank was
    built) where those suffice. Raises: ValueError where it lacks the teacher.
    """
    views = {record.arm: record.stop - record.start for record in manifest.plan.arms["test"]}
    index = manifest.plan.teacher_index(config.teacher)
    figures = manifest.teacher_figures(config.test_views)[index] if figures_serve(config) else {}
    return {
        spec
        for spec in config.test_arms
        if spec in figures or views.get(spec, 0) >= make_arm(spec).views(config.test_views)
    }


def lacking(
    values: Mapping[str, ProbeResult], config: TrialConfig, manifest: Manifest
) -> dict[str, list[str]]:
    """{probe: test arms} of which the values lack the student or the teacher, which the bank holds.

    values: by probe, measured under the settings of `config`, perhaps from another bank. Those of
    another version than this code's are passed over, because their names may be others.
    """
    held = held_arms(config, manifest)
    waves = Counter(_waves_of(spec) for spec in held)
    found: dict[str, list[str]] = {}
    for spec in (spec for spec in config.test_arms if spec in held):
        probe = "frequency" if family(spec) in FREQUENCY_FAMILIES else "robustness"
        entry = values.get(probe)
        if entry is None or entry.version != PROBES[probe].version:
            continue
        names = {*entry.metrics, *entry.teacher, *entry.undefined}
        for side in ("test", "teacher"):
            name = f"{side}/{_waves_of(spec) or make_arm(spec).metric}/accuracy"
            # All single waves of one strength share an array, with an accuracy of each.
            whole = len(entry.arrays.get(name, ())) >= waves[_waves_of(spec)]
            if name not in names and not whole:
                found.setdefault(probe, []).append(spec)
                break
    return found


def _waves_of(spec: str) -> str:
    """`fourier/SIGMA` of a single wave, under which all waves of a strength are; else empty."""
    return f"fourier/{make_arm(spec).options['sigma']:g}" if family(spec) == "fourier" else ""
