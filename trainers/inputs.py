"""Whether shards are those that a trial asks for."""

from __future__ import annotations

from shards.arms import make_arm
from shards.bank.manifest import Manifest, TeacherRecord, arm_record
from trainers.config.schema import PINS, TrialConfig


def _teachers(manifest: Manifest, config: TrialConfig) -> str:
    """The teacher asked for where the bank has it, else all that it has."""
    specs = [teacher.spec for teacher in manifest.plan.teachers]
    return config.teacher if config.teacher in specs else ", ".join(specs)


def _pins(config: TrialConfig, teacher: TeacherRecord) -> dict[str, tuple[object, object]]:
    """What the trial wants to be sure of: the teacher's weights, width and input size."""
    sha256 = config.teacher_sha256
    there = {
        "teacher_sha256": teacher.weights_sha256[: len(sha256 or "")],
        "teacher_dim": teacher.dim,
        "teacher_size": teacher.preprocess.size,
    }
    asked = {name: getattr(config, name) for name in PINS}
    return {name: (there[name], asked[name]) for name in PINS if asked[name] is not None}


def check_bank(config: TrialConfig, manifest: Manifest, place: str) -> None:
    """Raises: ValueError with both values where the shards are not those the trial asks for."""
    plan = manifest.plan
    pairs: dict[str, tuple[object, object]] = {
        "dataset": (plan.dataset.spec, config.dataset),
        "teacher": (_teachers(manifest, config), config.teacher),
        "data_seed": (plan.seed, config.data_seed),
        "train_samples": (plan.dataset.train_samples, config.train_samples),
        "test_samples": (plan.dataset.test_samples, config.test_samples),
        "image_size": (plan.dataset.image_size, config.image_size or plan.dataset.image_size),
    }
    if config.teacher == pairs["teacher"][0]:
        pairs |= _pins(config, plan.teachers[plan.teacher_index(config.teacher)])
    record = arm_record(manifest, "train", config.arm)
    arm = make_arm(config.arm)
    pairs["arm"] = ((record.columns, record.options), (arm.columns, arm.options))
    for field, (there, asked) in pairs.items():
        if there != asked:
            raise ValueError(f"{field}: the shards in {place} have {there!r}, asked for {asked!r}")
    views = record.stop - record.start
    if views != config.views:
        raise ValueError(
            f"views: the shards in {place} have {views} of arm {config.arm}, asked for "
            f"{config.views}"
        )
    if plan.dataset.counts["train"] < config.batch_size:
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {plan.dataset.counts['train']} "
            "train samples"
        )


def check_classes(config: TrialConfig, manifest: Manifest, place: str) -> None:
    """Raises: ValueError with both numbers where the trial asks for more classes than there are.

    No bank of the same data set would serve better, so it is not `check_bank`'s to say.
    """
    have = len(manifest.plan.dataset.classes)
    if config.classes is not None and config.classes > have:
        raise ValueError(
            f"classes: {config.classes} asked of {config.dataset} in {place}, which has {have}"
        )
