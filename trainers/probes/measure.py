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
from shards.arms.cifar10c_files import check_stored
from shards.bank.manifest import Manifest, arm_record
from shards.bank.splits import Split, load_splits, split_bytes, take
from shards.measures.corruption import Figures
from shards.support import storage
from shards.teachers.preprocess import Preprocess
from shards.teachers.prompts import unpack_floats
from trainers.config.schema import TrialConfig
from trainers.probes import PROBES, run_probes
from trainers.probes.features import FeatureBank, Floats, SplitName, Stored, Subject, unit
from trainers.students.cnn import Student
from trainers.students.teacher_pca import principal_projection
from trainers.training.data import Data, fits

BATCH = 100
StoredKey = tuple[SplitName, str, int]
VERSION = "probes/4"


@dataclass(frozen=True)
class Banks:
    """The splits a trial reads: its own arm, and what the probes need; names of its classes."""

    manifest: Manifest
    train: Split
    clean_train: Split
    test: dict[str, Split]
    classes: tuple[str, ...]


def load_banks(
    location: str,
    manifest: Manifest,
    config: TrialConfig,
    device: torch.device,
    reading: str = "auto",
) -> Banks:
    """One pass over the train shards and one over the test shards.

    `reading` is resident, streaming, or auto: resident where it fits. It changes no result.
    Raises: ValueError where the samples of the classes asked for do not fill a batch.
    """
    index = manifest.plan.teacher_index(config.teacher)
    have = {record.arm for record in manifest.plan.arms["test"]}
    arms = {
        "train": tuple(dict.fromkeys(("clean", config.arm))),
        "test": tuple(dict.fromkeys(("clean", *(a for a in config.test_arms if a in have)))),
    }
    needed = sum(split_bytes(manifest, split, arms[split], index) for split in arms)
    streaming = reading == "streaming" or (reading == "auto" and not fits(needed, device))
    names = manifest.plan.dataset.classes[: config.classes]
    train, test = (
        _of_classes(
            load_splits(location, manifest, split, arms[split], index, streaming), len(names)
        )
        for split in arms
    )
    for spec in config.test_arms:
        if make_arm(spec).test_only:
            check_stored(spec, test["clean"].keys, test["clean"].labels_N)
    banks = Banks(manifest, train[config.arm], train["clean"], test, names)
    samples, held = len(banks.train.keys), len(test["clean"].keys)
    if samples < config.batch_size or held < 2:
        raise ValueError(
            f"classes: the first {len(names)} have {samples} train and {held} test samples; a "
            f"batch needs {config.batch_size}, the test 2"
        )
    return banks


def _of_classes(splits: dict[str, Split], classes: int) -> dict[str, Split]:
    """The samples of the first `classes` classes, in order, with their keys and views."""
    shown_N = np.flatnonzero(splits["clean"].labels_N < classes)
    whole = len(shown_N) == len(splits["clean"].keys)
    return splits if whole else take(splits, shown_N)


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
    banks: Banks
    config: TrialConfig
    preprocess: Preprocess
    device: torch.device

    def data(self, split: SplitName, spec: str = "clean", views: int = 1) -> Data:
        """`views` views of a split's images under an arm, with draws of the bank's seed."""
        clean = self.banks.clean_train if split == "train" else self.banks.test["clean"]
        arm = make_arm(spec)
        seed = self.banks.manifest.plan.seed
        return Data(_drawn(clean, arm, seed, views), arm, self.preprocess, self.device)

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


def _text(banks: Banks, index: int) -> Floats | None:
    packed = banks.manifest.class_embeddings[index]
    if packed is None:
        return None
    text_CD = unpack_floats(packed.shape, packed.float32, "class embeddings of the manifest")
    return text_CD[: len(banks.classes)]


def _figures(manifest: Manifest, config: TrialConfig) -> Mapping[str, Figures]:
    """The teacher's under corruption as the shards hold them.

    None of them for fewer classes, or where they are over fewer draws than are asked for.
    """
    told = manifest.robustness
    if told is None or config.classes is not None or told.draws < config.test_views:
        return {}
    return told.teachers[manifest.plan.teacher_index(config.teacher)]


def _bank(
    banks: Banks,
    config: TrialConfig,
    subject: Subject,
    trained_on: str,
    figures: Mapping[str, Figures] | None = None,
) -> FeatureBank:
    index = banks.manifest.plan.teacher_index(config.teacher)
    train_ND, test_ND = subject.embed("train"), subject.embed("test")
    assert train_ND is not None
    assert test_ND is not None
    return FeatureBank(
        train_ND=train_ND,
        train_labels_N=banks.clean_train.labels_N,
        test_ND=test_ND,
        test_labels_N=banks.test["clean"].labels_N,
        teacher_ND=_stored(banks.test["clean"], 0),
        teacher_train_ND=_stored(banks.clean_train, 0),
        subject=subject,
        text_CD=_text(banks, index),
        classes=banks.classes,
        test_arms=config.test_arms,
        draws=config.test_views,
        trained_on=trained_on,
        adapt_arms=config.adapt_arms,
        figures=figures or {},
        seed=banks.manifest.plan.seed,
    )


def student_features(
    model: Student,
    banks: Banks,
    config: TrialConfig,
    preprocess: Preprocess,
    device: torch.device,
) -> FeatureBank:
    """The student on the clean images; whatever else a probe asks for is computed then."""
    return _bank(banks, config, Pupil(model, banks, config, preprocess, device), config.arm)


def _stored(split: Split, view: int) -> Floats:
    return unit(split.embedding_NVD[:, view])


def _stored_views(banks: Banks, config: TrialConfig) -> Iterator[tuple[StoredKey, Split, int]]:
    """Every view of which the bank has the teacher's embedding: its key, split and number."""
    yield ("train", "clean", 0), banks.clean_train, 0
    yield ("test", "clean", 0), banks.test["clean"], 0
    for spec in config.test_arms:
        if spec in banks.test:
            place = arm_record(banks.manifest, "test", spec)
            for view in range(min(config.test_views, place.stop - place.start)):
                yield ("test", spec, view), banks.test[spec], view


def teacher_features(banks: Banks, config: TrialConfig) -> FeatureBank:
    """The stored embeddings in the student's place; corruptions where the bank has them."""
    views = _stored_views(banks, config)
    embeddings = {key: _stored(split, view) for key, split, view in views}
    figures = _figures(banks.manifest, config)
    return _bank(banks, config, Stored(embeddings), "", figures)


def projected_features(banks: Banks, config: TrialConfig) -> FeatureBank:
    """`student: teacher_pca:K`: the same after projection. Raises: ValueError where K is too much.

    See trainers.students.teacher_pca.
    """
    with threadpool_limits(config.threads):
        project = principal_projection(config.student, banks.clean_train)
    views = _stored_views(banks, config)
    embeddings = {key: unit(project(split, view)) for key, split, view in views}
    return _bank(banks, config, Stored(embeddings), "")


@dataclass(frozen=True)
class Measured:
    """What the probes gave: finite numbers, and in `undefined` the names of all others.

    JSON has no NaN, so a measure without a value is named and left out.
    """

    metrics: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def measure(bank: FeatureBank, config: TrialConfig, prefix: str) -> Measured:
    """Run the trial's probes with as many BLAS threads as the trial declares."""
    with threadpool_limits(config.threads):
        metrics, arrays = run_probes(config.probes, bank, prefix)
    undefined = [name for name, value in (metrics | arrays).items() if not np.isfinite(value).all()]
    return Measured(
        {name: value for name, value in metrics.items() if name not in undefined},
        {name: value for name, value in arrays.items() if name not in undefined},
        undefined,
    )


def measure_teacher(banks: Banks, config: TrialConfig, root: str) -> Measured:
    """The teacher through the same probes; computed once a bank and probe settings, then kept."""
    settings = [
        VERSION,
        banks.manifest.identity,
        config.teacher,
        [(name, PROBES[name].version) for name in config.probes],
        config.test_arms,
        config.test_views,
        config.adapt_arms,
        dict(_figures(banks.manifest, config)),
        config.threads,
        config.classes,
    ]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    place = storage.join(root, "teacher", f"{name}.json")
    if storage.exists(place):
        return Measured(**json.loads(storage.read(place)))
    measured = measure(teacher_features(banks, config), config, "teacher")
    storage.write_json(place, asdict(measured))
    return measured
