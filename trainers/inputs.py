"""What one trial reads from one bank, resolved and checked once.

`resolve(config, bank)` is called before anything else is done for a trial. It returns the index of
the teacher's embeddings in the shards, the preprocessing of the student's images, the classes, and
the hash of everything that the trial reads. Its `load` reads the samples themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.arms import PLUGIN, make_arm
from shards.arms.cifar10c_files import check_stored
from shards.bank.manifest import Manifest, TeacherRecord, arm_record
from shards.bank.order import held_out_rows
from shards.bank.reader import load_manifest
from shards.bank.splits import Split, load_splits, split_bytes, take
from shards.datasets import DATASETS, decoder_of, needed_size
from shards.measures.corruption import Figures
from shards.support.memory import free_memory
from shards.support.registry import Table, plugins_of
from shards.teachers import TEACHERS
from shards.teachers.preprocess import Preprocess
from shards.teachers.prompts import templates_for, unpack_floats
from trainers.config.lengths import check_length, samples_left
from trainers.config.schema import PINS, TrialConfig
from trainers.objectives import needs_second_view
from trainers.students.teacher_pca import has_no_network


@dataclass(frozen=True)
class TrialInputs:
    """A trial and the bank that it reads; `resolve` has checked that the bank has all it needs.

    Attributes:
        config: the trial.
        bank: path or URL of the bank's folder.
        manifest: the bank's manifest.
        teacher_index: which embedding column of the shards is the teacher's.
        preprocess: how the student's images are prepared: the teacher's normalisation, at the
            teacher's size or, with `input: native`, at the data set's.
        source: sha256 of what the trial reads, see `source_of`.
        classes: names of the classes that the trial learns, in the order of their labels.
    """

    config: TrialConfig
    bank: str
    manifest: Manifest
    teacher_index: int
    preprocess: Preprocess
    source: str
    classes: tuple[str, ...]

    @property
    def teacher(self) -> TeacherRecord:
        """The bank's record of the trial's teacher."""
        return self.manifest.plan.teachers[self.teacher_index]

    @property
    def class_embeddings_CD(self) -> NDArray[np.float32] | None:
        """Unit text embeddings (C, D) of the class names; None without text tower or names."""
        packed = self.manifest.class_embeddings[self.teacher_index]
        if packed is None:
            return None
        text_CD = unpack_floats(packed.shape, packed.float32, "class embeddings of the manifest")
        return text_CD[: len(self.classes)]

    @property
    def teacher_figures(self) -> Mapping[str, Figures]:
        """The teacher's stored robustness figures by arm; empty where they do not suffice.

        They were measured on all classes, with classifiers fitted on all train images, so a trial
        on fewer classes, or with some images held out, cannot use them.
        """
        if self.config.classes is not None or self.config.validation_samples:
            return {}
        return self.manifest.teacher_figures(self.config.test_views)[self.teacher_index]

    def load(
        self, device: torch.device, reading: str = "auto", training: bool = True
    ) -> TrialSplits:
        """Read the samples: one pass over the train shards and one over the test shards.

        Args:
            device: where the samples will be used; its free memory decides with `auto`.
            reading: `resident` keeps them in memory, `streaming` reads them as they are needed,
                `auto` is resident where they fit. It changes no result.
            training: whether the augmented views of the trial's training arm are needed. To
                measure a student, the clean train images are enough.

        Raises:
            ValueError: where the samples of the chosen classes do not fill a batch or make no step,
                or fewer than are to be held out for validation; where the student's input is too
                small for the arm.
        """
        config, manifest = self.config, self.manifest
        arm = config.arm if training else "clean"
        self.check_arms("arm", () if has_no_network(config.student) else (arm,))
        stored = {record.arm for record in manifest.plan.arms["test"]}
        arms = {
            "train": tuple(dict.fromkeys(("clean", arm))),
            "test": tuple(dict.fromkeys(("clean", *(a for a in config.test_arms if a in stored)))),
        }
        needed = sum(
            split_bytes(manifest, split, arms[split], self.teacher_index) for split in arms
        )
        streaming = reading == "streaming" or (
            reading == "auto" and not fits_in_memory(needed, device)
        )
        train, test = (
            _of_classes(
                load_splits(self.bank, manifest, split, arms[split], self.teacher_index, streaming),
                len(self.classes),
            )
            for split in arms
        )
        for spec in config.test_arms:
            if make_arm(spec).test_only:
                check_stored(spec, test["clean"].keys, test["clean"].labels_N)
        # Here the samples of the chosen classes are known.
        samples, test_count = len(train["clean"].keys), len(test["clean"].keys)
        train_count = samples_left(config, samples)
        if train_count < config.batch_size or test_count < 2:
            held = f", {config.validation_samples} of them held out" * (train_count < samples)
            raise ValueError(
                f"classes: the first {len(self.classes)} have {samples} train{held} and "
                f"{test_count} test samples; a batch needs {config.batch_size}, measuring needs 2"
            )
        check_length(config, train_count)
        validation = None
        if config.validation_samples:
            train, validation = _divided(train, config.validation_samples, manifest.plan.seed)
        return TrialSplits(self, train[arm], train["clean"], test, validation)

    def check_arms(self, field: str, specs: Iterable[str]) -> None:
        """Raises: ValueError naming the field and the arm that the student's input cannot show."""
        side = self.preprocess.size
        nyquist = self.preprocess.nyquist(self.manifest.plan.dataset.image_size)
        for spec in specs:
            try:
                make_arm(spec).check_input(side, nyquist)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None


@dataclass(frozen=True)
class TrialSplits:
    """The samples that a trial reads.

    Attributes:
        inputs: the trial and its bank.
        train: train images under the trial's training arm (clean without `training`).
        clean_train: the same images without augmentation, with the teacher's embeddings.
        test: test images by arm: `clean`, and those test arms that the bank stores.
        validation: the clean train images that are held out; None without `validation_samples`.
            Nothing is fitted on them, and they are in neither `train` nor `clean_train`.
    """

    inputs: TrialInputs
    train: Split
    clean_train: Split
    test: dict[str, Split]
    validation: Split | None = None


def resolve(config: TrialConfig, bank: str, manifest: Manifest | None = None) -> TrialInputs:
    """Check a bank against a trial, and find in it what the trial reads.

    Args:
        config: the trial.
        bank: path or URL of the bank's folder.
        manifest: the bank's manifest, where the caller has read it already.

    Raises:
        ValueError: where the bank does not hold what the trial needs, with both values.
        OSError: where the bank cannot be read.
    """
    manifest = manifest or load_manifest(bank)
    problem = mismatch(config, manifest, bank)
    if problem is not None:
        raise ValueError(problem)
    plan = manifest.plan
    names = plan.dataset.classes
    # Not in `mismatch`: every bank of this data set has the same classes, so the trial is wrong
    # and another bank would not help.
    if config.classes is not None and config.classes > len(names):
        raise ValueError(
            f"classes: {config.classes}, but {config.dataset} in {bank} has {len(names)}; "
            f"choose at most {len(names)}"
        )
    # Of some classes there are fewer samples; `load` counts them.
    samples = samples_left(config, plan.dataset.counts["train"])
    check_length(config, samples, at_most=config.classes is not None)
    index = plan.teacher_index(config.teacher)
    preprocess = plan.teachers[index].preprocess
    if config.input == "native":
        preprocess = preprocess.native(plan.dataset.image_size)
    source = source_of(config, manifest)
    return TrialInputs(config, bank, manifest, index, preprocess, source, names[: config.classes])


def source_of(config: TrialConfig, manifest: Manifest) -> str:
    """sha256 of what the trial reads: images, teacher, preprocessing, prompts, arms, parameters.

    Banks that differ only in other arms or other teachers have the same source for a trial. With
    `data_seed: per_seed` trials of different seeds have the same source too, as long as each bank
    was drawn with its trial's seed: they are still seeds of one group.
    Raises: ValueError where the bank lacks the teacher or the arm.
    """
    plan = manifest.plan
    arms = [*(("train", a) for a in ("clean", config.arm)), ("test", "clean")]
    chosen = [arm_record(manifest, split, arm) for split, arm in arms]
    own = config.data_seed == "per_seed" and plan.seed == config.seed
    seed = config.data_seed if own else plan.seed
    index = plan.teacher_index(config.teacher)
    parts = [
        plan.dataset.model_dump_json(),
        plan.teachers[index].model_dump_json(),
        *(f"{a.arm} {a.columns} {sorted(a.options.items())} {a.stop - a.start}" for a in chosen),
        f"{seed} {plan.device} {plan.format}",
    ]
    # Appended only where the prompts are not the data set's own, so that other sources stay as they
    # were. Without class embeddings nothing reads them.
    own_prompts = plan.templates == templates_for(plan.dataset.spec)
    if not own_prompts and manifest.class_embeddings[index] is not None:
        parts.append(json.dumps(plan.templates))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def mismatch(config: TrialConfig, manifest: Manifest, bank: str) -> str | None:
    """The first field in which a bank is not what the trial needs; None where there is none.

    It is one line with the field, the bank's value and the trial's.
    """
    plan = manifest.plan
    specs = [teacher.spec for teacher in plan.teachers]
    try:
        record = arm_record(manifest, "train", config.arm)
    except ValueError as error:
        record, missing_arm = None, str(error)
    else:
        missing_arm = None
    side, requested = plan.dataset.image_size, manifest.requested_size
    # (field, the bank's value, the trial's)
    values: list[tuple[str, object, object]] = [
        ("dataset", plan.dataset.spec, config.dataset),
        # A bank of image files holds other pixels where another decoder has read them.
        ("decoder of pictures", plan.dataset.decoder, decoder_of(config.dataset)),
        (
            "teacher",
            config.teacher if config.teacher in specs else ", ".join(specs),
            config.teacher,
        ),
        ("data_seed", plan.seed, config.draws_seed),
        ("train_samples", plan.dataset.train_samples, config.train_samples),
        ("test_samples", plan.dataset.test_samples, config.test_samples),
        ("image_size", side, needed_size(config.dataset, config.image_size, side, requested)),
    ]
    if config.teacher in specs:
        values += _pinned(config, plan.teachers[plan.teacher_index(config.teacher)])
    if record is not None:
        # An arm of the same name may have had other parameters in another version of this code.
        arm = make_arm(config.arm)
        drawn, draws = (record.columns, record.options), (arm.columns, arm.options)
        values.append(("arm", drawn, draws))
        values.append(("views", record.stop - record.start, config.views))
    values += _plugins(config, manifest)
    for field, found, needed in values:
        if found != needed:
            where = f" of arm {config.arm}" if field == "views" else ""
            return f"{field}: the bank {bank} has {found!r}{where}, the trial needs {needed!r}"
    if missing_arm is not None:
        return missing_arm
    if plan.dataset.counts["train"] < config.batch_size:
        count = plan.dataset.counts["train"]
        return f"batch_size: {config.batch_size} is more than the {count} train samples"
    return None


def _plugins(config: TrialConfig, manifest: Manifest) -> list[tuple[str, object, object]]:
    """(field, the bank's plugin, the trial's): another source of a plugin made other samples.

    That of the training arm is among its options.
    """
    plan = manifest.plan
    found: list[tuple[str, str | None, Table[Any], str]]
    found = [("dataset", plan.dataset.plugin, DATASETS, config.dataset)]
    if config.teacher in (teacher.spec for teacher in plan.teachers):
        teacher = plan.teachers[plan.teacher_index(config.teacher)]
        found.append(("teacher", teacher.plugin, TEACHERS, config.teacher))
    values: list[tuple[str, object, object]] = [
        (f"plugin of {field}", plugin, next(iter(plugins_of((table, spec))), None))
        for field, plugin, table, spec in found
    ]
    for record in plan.arms["test"]:
        if record.arm in config.test_arms:
            needed = make_arm(record.arm).options.get(PLUGIN)
            values.append((f"plugin of {record.arm}", record.options.get(PLUGIN), needed))
    return values


def _pinned(config: TrialConfig, teacher: TeacherRecord) -> list[tuple[str, object, object]]:
    """(field, the bank's value, the trial's) of the facts of the teacher that the trial pins."""
    found = {
        "teacher_sha256": teacher.weights_sha256[: len(config.teacher_sha256 or "")],
        "teacher_dim": teacher.dim,
        "teacher_size": teacher.preprocess.size,
        "teacher_precision": teacher.precision,
    }
    pins = [(name, found[name], getattr(config, name)) for name in PINS]
    return [pin for pin in pins if pin[2] is not None]


def distinct_views(config: TrialConfig, train_samples: int) -> int:
    """How many different views of a sample training shows; 1 for an arm without randomness.

    Epoch e shows view (e + offset) mod K, K being `views`. An objective that compares two views
    also sees the next one.
    """
    if not make_arm(config.arm).stochastic:
        return 1
    pair = needs_second_view(config.objective, config.objective_fields)
    return min(config.views, config.epochs_begun(train_samples) + pair)


def _of_classes(splits: dict[str, Split], classes: int) -> dict[str, Split]:
    """The samples of the first `classes` classes, in order, with their keys and views."""
    chosen_N = np.flatnonzero(splits["clean"].labels_N < classes)
    whole = len(chosen_N) == len(splits["clean"].keys)
    return splits if whole else take(splits, chosen_N)


def _divided(splits: dict[str, Split], count: int, seed: int) -> tuple[dict[str, Split], Split]:
    """(the samples that are trained on, `count` clean ones that are held out), each in order."""
    keys = splits["clean"].keys
    held_M = held_out_rows(keys, count, seed)
    left_N = np.setdiff1d(np.arange(len(keys)), held_M)
    return take(splits, left_N), take({"clean": splits["clean"]}, held_M)["clean"]


def fits_in_memory(needed: int, device: torch.device) -> bool:
    """Whether `needed` bytes may stay in memory.

    At most a quarter of what is free on the device: other trials start beside this one and
    measure the same free memory.
    """
    if device.type == "cuda":
        return needed <= torch.cuda.mem_get_info(device)[0] // 4
    return needed <= free_memory() // 4
