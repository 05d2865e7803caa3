"""Read a trial's folder, or a student's folder without a trial, at a path or a URL."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from shards.bank.manifest import Manifest, TeacherRecord
from shards.support import storage
from shards.teachers.preprocess import Preprocess
from trainers.canonical import stored_config
from trainers.config.schema import TrialConfig
from trainers.results.record import TrialResult, parse_result
from trainers.students.base import Student
from trainers.students.files import RECORD, WEIGHTS, load_student
from trainers.students.teacher_pca import has_no_network

TRIALS = "trials"
RESULT = "result.json"
STUDENT = "student"
EXPECTED = "a trial's folder (result.json, student/) or a student's (student.json)"


# ---- a trial's folder under its root ----


def trial_folder(root: str, config: TrialConfig) -> str:
    """ROOT/trials/IDENTITY: a hash of the configuration, so that equal trials share a folder."""
    return storage.join(root, TRIALS, config.identity)


def finished(root: str, config: TrialConfig) -> TrialResult | None:
    """The result of a trial, or None where it is not finished.

    Raises: ValueError for a damaged file, or a result of another teacher than the trial demands;
        OSError.
    """
    file = storage.join(trial_folder(root, config), RESULT)
    try:
        result = read_result(file)
    except FileNotFoundError:
        return None
    _check_pins(config, result, file)
    return result


def begun(root: str) -> set[str]:
    """Identities of the trials that have a folder under `root`, by one listing. Raises: OSError."""
    return set(storage.names(storage.join(root, TRIALS)))


def _check_pins(config: TrialConfig, result: TrialResult, file: str) -> None:
    """Facts that the trial pins of its teacher are no part of its identity: compare them here.

    Not `teacher_size`, which no result holds; `resolve` compares it with the bank's.
    Raises: ValueError naming the file, the field and both values.
    """
    precision = result.embeddings.precision if result.embeddings else "unknown"
    found = {
        "teacher_sha256": result.weights_sha256[: len(config.teacher_sha256 or "")],
        "teacher_dim": result.data.dim,
        "teacher_precision": precision,
    }
    for name, value in found.items():
        pinned = getattr(config, name)
        if pinned is not None and value != pinned:
            raise ValueError(
                f"{file}: {name}: this trial was finished with {value!r}, but {pinned!r} is "
                "required; choose another --out, or delete the trial's folder to run it again"
            )


def tidy(root: str, config: TrialConfig) -> None:
    """Remove the checkpoints of a finished trial.

    Also called for trials that were finished before: a process may have been killed after it had
    written the result and before it removed the checkpoints.
    """
    storage.delete(storage.join(trial_folder(root, config), "checkpoints"))


def trials_at(location: str) -> list[str]:
    """Folders of a run's finished trials, or `location` itself where it holds no trials/.

    Raises: ValueError for a run without a finished trial.
    """
    root = storage.join(location, TRIALS)
    trials = [storage.join(root, name) for name in storage.names(root)]
    if not trials:
        return [location]
    found = [trial for trial in trials if storage.exists(storage.join(trial, RESULT))]
    if not found:
        raise ValueError(f"{root}: none of {len(trials)} trials is finished")
    return found


# ---- files ----


def read_json(file: str) -> dict[str, Any]:
    """The JSON object in a file, a path or a URL. Raises: ValueError for other content; OSError."""
    try:
        value = json.loads(storage.read(file))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); delete it to have it made again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: got {str(value)[:40]!r}; expected a JSON object")
    return cast(dict[str, Any], value)


def read_result(file: str) -> TrialResult:
    """A result.json, of this format or the one before it. Raises: ValueError; OSError."""
    return parse_result(read_json(file), file)


def fetch_student(folder: str) -> tuple[Student, dict[str, Any]]:
    """The student in a folder or at a URL, on the CPU, in evaluation mode, and its student.json.

    Raises: those of `trainers.students.files.load_student`.
    """
    with tempfile.TemporaryDirectory() as copy:
        for name in (WEIGHTS, RECORD):
            Path(copy, name).write_bytes(storage.read(storage.join(folder, name)))
        try:
            return load_student(copy), json.loads(Path(copy, RECORD).read_bytes())
        except ValueError as error:
            raise ValueError(str(error).replace(copy, folder)) from None


# ---- a student and its trial ----


@dataclass(frozen=True)
class Stored:
    """A student as it was found on disk.

    location: the trial's folder, or that of the student where there is no trial. model: on the
    CPU, in evaluation mode. about: the content of its student.json. result: the trial's, None
    without a trial. A student without a network (`teacher_pca:K`) has no model, and `about` holds
    only its spec.
    """

    location: str
    model: Student | None
    about: dict[str, Any]
    result: TrialResult | None

    @property
    def sha256(self) -> str:
        """sha256 of the student's weights file, "" for a student without a network."""
        return self.about.get("sha256", "")

    @property
    def network(self) -> Student:
        """The model. Raises: ValueError for a student without a network."""
        if self.model is None:
            raise ValueError(f"{self.location}: student `{self.about['spec']}` has no network")
        return self.model

    def config(self) -> TrialConfig | None:
        """The trial's settings, None without a trial.

        Raises: ValueError where they are not valid in this version, or a plugin is absent.
        """
        return self.result and stored_config(self.result.config, self.location)


def open_stored(location: str) -> Stored:
    """Load the student in a trial's folder, in its student/ folder, or in a copy of that.

    Raises: ValueError for a folder that is none of these, or holds damaged files; OSError.
    """
    if storage.is_local(location):
        location = str(storage.local_path(location).resolve())
    if storage.exists(storage.join(location, RESULT)):
        return _open_trial(location)
    if not storage.exists(storage.join(location, RECORD)):
        raise ValueError(f"{location}: expected {EXPECTED}")
    trial, _, name = location.rstrip("/").rpartition("/")
    if name == STUDENT and storage.exists(storage.join(trial, RESULT)):
        return _open_trial(trial)
    return Stored(location, *fetch_student(location), None)


def _open_trial(folder: str) -> Stored:
    result = read_result(storage.join(folder, RESULT))
    if has_no_network(result.student.spec):
        return Stored(folder, None, {"spec": result.student.spec}, result)
    return Stored(folder, *fetch_student(storage.join(folder, STUDENT)), result)


def student_sha256(folder: str, result: TrialResult) -> str:
    """sha256 of a finished trial's weights, by its student.json, which loading checks."""
    if has_no_network(result.student.spec):
        return ""
    return str(read_json(storage.join(folder, STUDENT, RECORD)).get("sha256"))


def teacher_in(manifest: Manifest, stored: Stored, bank: str) -> TeacherRecord:
    """The bank's record of the teacher that the student was distilled from.

    Raises: ValueError where the bank's teacher has other weights, or where the bank has several
    teachers and there is no result that names one.
    """
    teachers = manifest.plan.teachers
    if stored.result is None:
        if len(teachers) > 1:
            specs = ", ".join(teacher.spec for teacher in teachers)
            raise ValueError(
                f"{stored.location}: no result.json names the teacher, and {bank} has several "
                f"({specs}); give the trial's folder"
            )
        return next(iter(teachers))
    teacher = teachers[manifest.plan.teacher_index(stored.result.config["teacher"])]
    if teacher.weights_sha256 != stored.result.weights_sha256:
        raise ValueError(
            f"{bank}: teacher weights {teacher.weights_sha256[:16]}, the student in "
            f"{stored.location} was distilled from {stored.result.weights_sha256[:16]}"
        )
    return teacher


def preprocess_of(stored: Stored, manifest: Manifest | None = None, bank: str = "") -> Preprocess:
    """How the student's images are prepared: by the trial's result, else by its bank.

    manifest, bank: of the bank, and its location for messages; needed without a result only.
    Raises: ValueError where there is neither, or the bank's images have another size.
    """
    if stored.result is not None:
        return stored.result.input.preprocess
    if manifest is None:
        raise ValueError(
            f"{stored.location}: no result.json with the normalisation of the images; give the "
            "trial's folder, or the shards that the student was trained on with --bank"
        )
    preprocess = teacher_in(manifest, stored, bank).preprocess
    native = manifest.plan.dataset.image_size
    for candidate in (preprocess.native(native), preprocess):
        if candidate.size == stored.about["image_size"]:
            return candidate
    raise ValueError(
        f"{bank}: images of {native} or {preprocess.size} pixels; the student in "
        f"{stored.location} takes {stored.about['image_size']}"
    )
