"""PROBES: what is measured of a student's embeddings, and of its teacher's for reference.

Each file holds one measurement, and all are computed from one FeatureBank. The arithmetic is in
`shards.measures`; a probe calls it, names the values and describes them with units and ranges. To
add one, write a file with a function and its `Probe` (see `trainers.probes.base`), and list it in
PROBES.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shards.measures.linear_probe import whole_batches
from shards.support.registry import Table
from trainers.inputs import TrialInputs
from trainers.probes.base import Probe, check_metric_name
from trainers.probes.features import FeatureBank
from trainers.probes.file_order import FILE_ORDER
from trainers.probes.infonce import INFONCE
from trainers.probes.intervals import INTERVALS
from trainers.probes.linear import LINEAR
from trainers.probes.neighbours import NEIGHBOURS
from trainers.probes.retained import RETAINED
from trainers.probes.robustness import FREQUENCY, ROBUSTNESS
from trainers.probes.spectrum import SPECTRUM
from trainers.probes.truncated import TRUNCATED
from trainers.probes.zero_shot import ZERO_SHOT
from trainers.students.teacher_pca import has_no_network

# The order is that of a trial's default `probes`, on which the identities of trials depend.
PROBES: Table[Probe] = Table(
    "probe",
    {
        "spectrum": SPECTRUM,
        "linear": LINEAR,
        "neighbours": NEIGHBOURS,
        "zero_shot": ZERO_SHOT,
        "robustness": ROBUSTNESS,
        "frequency": FREQUENCY,
        "infonce": INFONCE,
        "intervals": INTERVALS,
        "retained": RETAINED,
        "truncated": TRUNCATED,
        "file_order": FILE_ORDER,
    },
)


def default_probes() -> tuple[str, ...]:
    """Names of the probes of a trial that sets no `probes`, in the table's order."""
    return tuple(name for name, probe in PROBES.items() if probe.default)


def check_train_labels(names: tuple[str, ...], labels_N: NDArray[np.int64], dataset: str) -> None:
    """Refuse, before any training, train samples that a probe cannot be fitted on.

    labels_N: of the train samples in keyed order, as `FeatureBank` has them.
    Raises: ValueError naming the data set and the first such probe.
    """
    counts_K = np.unique(labels_N, return_counts=True)[1]
    for name in names:
        probe = PROBES[name]
        if probe is LINEAR or LINEAR in probe.uses:
            # All but `truncated` fit the paper's protocol, which drops the last short batch.
            count = len(labels_N)
            taken = count if probe is TRUNCATED else whole_batches(count)
            if len(np.unique(labels_N[:taken])) < 2:
                cut = f", the first {taken} of {count} in keyed order," if taken < count else ""
                raise ValueError(
                    f"probes: `{name}` needs train images of two classes; those of dataset "
                    f"{dataset} that it is fitted on{cut} are all of one"
                )
        if counts_K.max() < probe.class_images:
            raise ValueError(
                f"probes: `{name}` needs a class with {probe.class_images} train images; of "
                f"dataset {dataset} the trial reads {counts_K.max()} of each class: give it more, "
                "or name other probes"
            )


def check_arms(inputs: TrialInputs) -> None:
    """Refuse, before any training, corruptions that the student's input is too small for.

    Raises: ValueError naming the field and the arm.
    """
    config = inputs.config
    probes = [PROBES[name] for name in config.probes]
    measured = any(probe is ROBUSTNESS or ROBUSTNESS in probe.uses for probe in probes)
    if measured and not has_no_network(config.student):  # which is given no images
        inputs.check_arms("test_arms", config.test_arms)
        inputs.check_arms("adapt_arms", config.adapt_arms)


def run_probes(
    names: tuple[str, ...], bank: FeatureBank, prefix: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """(metrics, arrays) of the named probes; `prefix` is `test` (student) or `teacher`.

    Each value is called `prefix/name`, with the name that the probe yields.
    Raises: ValueError for an unknown probe, embeddings that a probe cannot measure, or a name that
        MLflow would refuse.
    """
    metrics: dict[str, float] = {}
    arrays: dict[str, list[float]] = {}
    for probe in names:
        for name, value in PROBES[probe].run(bank):
            check_metric_name(probe, name)
            if isinstance(value, list):
                arrays[f"{prefix}/{name}"] = value
            else:
                metrics[f"{prefix}/{name}"] = value
    return metrics, arrays
