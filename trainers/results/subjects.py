"""Find the students at a path that can be probed, each with its trial's settings and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shards.bank.manifest import MANIFEST as BANK
from shards.bank.reader import load_manifest
from shards.support import storage
from trainers.canonical import make_config, stored_config
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialInputs, resolve, source_of
from trainers.results.folder import (
    TRIALS,
    Stored,
    open_stored,
    preprocess_of,
    read_json,
    teacher_in,
    trials_at,
)
from trainers.results.record import TrialResult
from trainers.results.reprobed import FOLDER
from trainers.students import build_student
from trainers.students.base import Student
from trainers.training.checkpoint import ARRAYS, MANIFEST, RECORD, Checkpoints, step_of
from trainers.training.wrappers import unwrap_student, wrap_student


@dataclass(frozen=True)
class Subject:
    """A student to probe, its trial and its images.

    folder: where results are written. root: the run's folder, which holds banks/ and teacher/.
    inputs: the trial and its bank. student: None for one without a network. sha256: of the
    student's weights. trial: its identity, None for a student without a trial.
    """

    folder: str
    root: str
    inputs: TrialInputs
    student: Student | None
    sha256: str
    trial: str | None


# ---- finding its shards ----


def find_bank(config: TrialConfig, source: str, root: str, given: str | None) -> str:
    """The bank that a trial was trained on: `given`, or one in ROOT/banks.

    source: the hash of what the trial read, by which the bank is recognised.
    Raises: ValueError where `given` has another source, or no bank in ROOT/banks has this one.
    """
    if given is not None:
        found = source_of(config, load_manifest(given))
        if found != source:
            raise ValueError(
                f"--bank {given}: holds other images, augmentation parameters, prompts or teacher "
                f"weights ({found[:16]}) than the trial read ({source[:16]})"
            )
        return given
    folder = storage.join(root, "banks")
    for name in storage.names(folder):
        bank = storage.join(folder, name)
        if storage.exists(storage.join(bank, BANK)) and _serves(config, source, bank):
            return bank
    raise ValueError(f"{folder}: holds no shards that the trial was trained on; give --bank")


def _serves(config: TrialConfig, source: str, bank: str) -> bool:
    manifest = load_manifest(bank)
    try:
        return source_of(config, manifest) == source
    except ValueError:  # the bank lacks the trial's teacher or arm
        return False


# ---- the three kinds of subject ----


def of_trial(stored: Stored, result: TrialResult, bank: str | None) -> Subject:
    """The student of a finished trial. Raises: ValueError where its bank is not found."""
    config = stored_config(result.config, stored.location)
    above = stored.location.rsplit("/", 2)
    root = above[0] if len(above) == 3 and above[1] == TRIALS else stored.location
    inputs = resolve(config, find_bank(config, result.source, root, bank))
    folder = storage.join(stored.location, FOLDER)
    return Subject(folder, root, inputs, stored.model, stored.sha256, result.id)


def of_student(stored: Stored, bank: str | None) -> Subject:
    """A student without a trial, as if trained on `clean`. Raises: ValueError without a bank."""
    if bank is None:
        raise ValueError(
            f"{stored.location}: no result.json; give the trial's folder, or the shards that the "
            "student was trained on with --bank"
        )
    manifest = load_manifest(bank)
    preprocess = preprocess_of(stored, manifest, bank)
    plan, data = manifest.plan, manifest.plan.dataset
    config = make_config(
        {
            "dataset": data.spec,
            "image_size": data.image_size,
            "train_samples": data.train_samples,
            "test_samples": data.test_samples,
            "data_seed": plan.seed,
            "teacher": teacher_in(manifest, stored, bank).spec,
            "student": stored.about["spec"],
            "input": "native" if preprocess.size == data.image_size else "teacher",
        }
    )
    folder, inputs = storage.join(stored.location, FOLDER), resolve(config, bank, manifest)
    return Subject(folder, stored.location, inputs, stored.network, stored.sha256, None)


def of_checkpoint(step_folder: str, bank: str | None) -> Subject:
    """The student in one checkpoint; its moving average of the weights where there is one.

    Raises: ValueError where the checkpoint is damaged or of another format.
    """
    folder, name = step_folder.rstrip("/").rsplit("/", 1)
    owner: dict[str, Any] = read_json(storage.join(step_folder, RECORD)).get("owner") or {}
    if "source" not in owner:
        raise ValueError(f"{step_folder}: not a checkpoint that records its trial")
    config = stored_config({n: v for n, v in owner.items() if n != "source"}, step_folder)
    trial = folder.rsplit("/", 1)[0]
    root = trial.rsplit("/", 2)[0]
    inputs = resolve(config, find_bank(config, owner["source"], root, bank))
    dim = inputs.teacher.dim
    arrays = Checkpoints(folder, owner).load_named(name).arrays
    student = build_student(config.student, dim, inputs.preprocess.size, config.seed)
    model = wrap_student(config, student, dim, len(inputs.classes))
    role = "average/" if any(name.startswith("average/") for name in arrays) else "model/"
    state = {n.removeprefix(role): t for n, t in arrays.items() if n.startswith(role)}
    model.load_state_dict(state, strict=True)
    return Subject(
        storage.join(trial, FOLDER, f"step-{step_of(name):08d}"),
        root,
        inputs,
        unwrap_student(model).eval(),
        read_json(storage.join(step_folder, MANIFEST))["sha256"][ARRAYS],
        config.identity,
    )


def locations(location: str) -> list[str]:
    """Folders with a student: every finished trial of a run's folder, else `location` itself."""
    if storage.is_local(location):
        location = str(storage.local_path(location).resolve())
    return trials_at(location)


def subject_at(location: str, bank: str | None) -> Subject:
    """The student in the folder of a trial, of a student or of a checkpoint.

    bank: path or URL of its shards; None searches the run's banks/.
    Raises: ValueError where the folder is none of these, or the bank is not found; OSError.
    """
    if storage.exists(storage.join(location, RECORD)):
        return of_checkpoint(location, bank)
    stored = open_stored(location)
    if stored.result is None:
        return of_student(stored, bank)
    return of_trial(stored, stored.result, bank)
