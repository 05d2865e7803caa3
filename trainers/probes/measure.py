"""From a trained student and its bank to the FeatureBank of both, and through the probes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn.modules.batchnorm import _BatchNorm

from shards.arms import Arm, make_arm
from shards.bank.manifest import arm_record
from shards.bank.splits import Split
from shards.measures.corruption import Figures
from shards.support import storage
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits
from trainers.probes import PROBES, run_probes
from trainers.probes.features import FeatureBank, Floats, SplitName, Stored, Subject, unit
from trainers.probes.projection import principal_projection
from trainers.students.base import Student
from trainers.training.data import Data

BATCH = 100
StoredKey = tuple[SplitName, str, int]


@torch.inference_mode()
def _encode(encode: Callable[[torch.Tensor], torch.Tensor], data: Data, view: int) -> np.ndarray:
    """One view of every sample through `encode`, float32 (N, F)."""
    parts = [encode(images_BCHW).float().cpu() for images_BCHW in data.view(view, BATCH)]
    return torch.cat(parts).numpy()


def _drawn(clean: Split, arm: Arm, seed: int, views: int) -> Split:
    """The clean images with fresh draws of `arm`: those a bank would have stored."""
    params_NVP = arm.draw(seed, clean.keys, views)
    return replace(clean, params_NVP=params_NVP)


@dataclass(frozen=True)
class Pupil:
    """A trained student with its images, as a `trainers.probes.features.Subject`."""

    model: Student
    splits: TrialSplits
    device: torch.device

    def data(self, split: SplitName, spec: str = "clean", views: int = 1) -> Data:
        """`views` views of a split's images under an arm, with draws of the bank's seed."""
        inputs = self.splits.inputs
        clean = self.splits.clean_train if split == "train" else self.splits.test["clean"]
        arm = make_arm(spec)
        drawn = _drawn(clean, arm, inputs.manifest.plan.seed, views)
        return Data(drawn, arm, inputs.preprocess, self.device)

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats:
        self.model.eval()
        return unit(_encode(self.model, self.data(split, arm, view + 1), view))

    def penultimate(self, split: SplitName) -> Floats:
        self.model.eval()
        return _encode(self.model.features, self.data(split), 0)

    def recalibrated(self, arm: str) -> Pupil | None:
        """BatchNorm's running statistics replaced by the mean over one pass, in order."""
        model = copy.deepcopy(self.model).eval()
        norms = [
            m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
        ]
        if not norms:
            return None
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
        _encode(model, self.data("train", arm), 0)
        return replace(self, model=model.eval())


def _bank(
    splits: TrialSplits,
    subject: Subject,
    trained_on: str,
    figures: Mapping[str, Figures] | None = None,
) -> FeatureBank:
    inputs, config = splits.inputs, splits.inputs.config
    train_ND, test_ND = subject.embed("train"), subject.embed("test")
    assert train_ND is not None
    assert test_ND is not None
    return FeatureBank(
        train_ND=train_ND,
        train_labels_N=splits.clean_train.labels_N,
        test_ND=test_ND,
        test_labels_N=splits.test["clean"].labels_N,
        teacher_ND=_stored(splits.test["clean"], 0),
        teacher_train_ND=_stored(splits.clean_train, 0),
        subject=subject,
        text_CD=inputs.class_embeddings_CD,
        classes=inputs.classes,
        test_arms=config.test_arms,
        draws=config.test_views,
        trained_on=trained_on,
        adapt_arms=config.adapt_arms,
        figures=figures or {},
        seed=inputs.manifest.plan.seed,
    )


def student_features(model: Student, splits: TrialSplits, device: torch.device) -> FeatureBank:
    """The student on the clean images; whatever else a probe asks for is computed then."""
    return _bank(splits, Pupil(model, splits, device), splits.inputs.config.arm)


def _stored(split: Split, view: int) -> Floats:
    return unit(split.embedding_NVD[:, view])


def _stored_views(splits: TrialSplits) -> Iterator[tuple[StoredKey, Split, int]]:
    """Every view of which the bank has the teacher's embedding: its key, split and number."""
    config = splits.inputs.config
    yield ("train", "clean", 0), splits.clean_train, 0
    yield ("test", "clean", 0), splits.test["clean"], 0
    for spec in config.test_arms:
        if spec in splits.test:
            record = arm_record(splits.inputs.manifest, "test", spec)
            for view in range(min(config.test_views, record.stop - record.start)):
                yield ("test", spec, view), splits.test[spec], view


def teacher_features(splits: TrialSplits) -> FeatureBank:
    """The stored embeddings in the student's place; corruptions where the bank has them."""
    embeddings = {key: _stored(split, view) for key, split, view in _stored_views(splits)}
    return _bank(splits, Stored(embeddings), "", splits.inputs.teacher_figures)


def projected_features(splits: TrialSplits) -> FeatureBank:
    """`student: teacher_pca:K`: the same after projection. Raises: ValueError where K is too much.

    See trainers.students.teacher_pca.
    """
    config = splits.inputs.config
    with threadpool_limits(config.threads):
        project = principal_projection(config.student, splits.clean_train)
    embeddings = {key: unit(project(split, view)) for key, split, view in _stored_views(splits)}
    return _bank(splits, Stored(embeddings), "")


@dataclass(frozen=True)
class Measured:
    """What one probe gave for one network: finite numbers, and the names of all others.

    JSON has no NaN, so a measure without a value is named in `undefined` and left out.
    """

    metrics: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def measure(bank: FeatureBank, config: TrialConfig, prefix: str) -> dict[str, Measured]:
    """Run the trial's probes with as many BLAS threads as the trial declares; by probe."""
    with threadpool_limits(config.threads):
        return {probe: _finite(*run_probes((probe,), bank, prefix)) for probe in config.probes}


def _finite(metrics: dict[str, float], arrays: dict[str, list[float]]) -> Measured:
    undefined = [name for name, value in (metrics | arrays).items() if not np.isfinite(value).all()]
    return Measured(
        {name: value for name, value in metrics.items() if name not in undefined},
        {name: value for name, value in arrays.items() if name not in undefined},
        undefined,
    )


def measure_teacher(splits: TrialSplits, root: str) -> dict[str, Measured]:
    """The teacher through the same probes.

    Measured once for a bank and settings, then cached in ROOT/teacher/. The file is named by all
    that the values depend on, the probes' versions included, so an outdated one is never read.
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
    ]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    file = storage.join(root, "teacher", f"{name}.json")
    if storage.exists(file):
        cached = json.loads(storage.read(file))
        return {probe: Measured(**values) for probe, values in cached.items()}
    measured = measure(teacher_features(splits), config, "teacher")
    storage.write_json(file, {probe: asdict(values) for probe, values in measured.items()})
    return measured
