"""Run a trial's probes on a FeatureBank: a student's, or its teacher's as the reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

from shards.arms import ARMS
from shards.support import storage
from shards.support.registry import plugins_of
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits
from trainers.probes import PROBES, run_probes
from trainers.probes.feature_banks import teacher_features
from trainers.probes.features import FeatureBank


@dataclass(frozen=True)
class Measured:
    """The values of one probe for one model.

    metrics and arrays hold finite values. JSON has no NaN, so of a value that is NaN or infinite
    only the name is kept, in `undefined`.
    """

    metrics: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def measure(
    bank: FeatureBank, config: TrialConfig, prefix: str, before: Callable[[], None] = lambda: None
) -> dict[str, Measured]:
    """Run each of the trial's probes; returns {probe: its values}.

    prefix: of metric names, `test` for a student and `teacher` for a teacher. before: called before
    every probe. BLAS uses as many threads as the trial declares, because the last bits of sums
    depend on that number.
    """
    values: dict[str, Measured] = {}
    with threadpool_limits(config.threads):
        for probe in config.probes:
            before()
            values[probe] = _finite(*run_probes((probe,), bank, prefix))
    return values


def _finite(metrics: dict[str, float], arrays: dict[str, list[float]]) -> Measured:
    undefined = [name for name, value in (metrics | arrays).items() if not np.isfinite(value).all()]
    return Measured(
        {name: value for name, value in metrics.items() if name not in undefined},
        {name: value for name, value in arrays.items() if name not in undefined},
        undefined,
    )


def measure_teacher(splits: TrialSplits, root: str) -> dict[str, Measured]:
    """Run the trial's probes on the teacher; returns {probe: its values}.

    That is done once for a bank and settings, and then cached in ROOT/teacher/. The file name is a
    hash of all that the values depend on, the probes' versions included, so that an outdated file
    is never read.
    """
    inputs, config = splits.inputs, splits.inputs.config
    settings = [
        inputs.manifest.identity,
        config.teacher,
        [(name, PROBES[name].version) for name in config.probes],
        config.test_arms,
        config.test_views,
        config.adapt_arms,
        dict(inputs.teacher_figures),
        config.threads,
        config.classes,
        # Appended only where there are some, so that files of other trials are still found.
        *([config.validation_samples] if config.validation_samples else []),
    ]
    probes = [(PROBES, name) for name in config.probes]
    arms = [(ARMS, spec) for spec in config.test_arms + config.adapt_arms]
    if plugins := plugins_of(*probes, *arms):
        settings.append(plugins)
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    file = storage.join(root, "teacher", f"{name}.json")
    if storage.exists(file):
        cached = json.loads(storage.read(file))
        return {probe: Measured(**values) for probe, values in cached.items()}
    measured = measure(teacher_features(splits), config, "teacher")
    storage.write_json(file, {probe: asdict(values) for probe, values in measured.items()})
    return measured
