"""A finished trial, or a student's folder alone, found again at a path or a URL."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.bank.manifest import Manifest, TeacherRecord
from shards.support import storage
from shards.teachers.preprocess import Preprocess
from trainers.students.base import Student
from trainers.students.files import RECORD, WEIGHTS, load_student
from trainers.students.teacher_pca import has_no_network

RESULT = "result.json"
STUDENT = "student"
LEFT_BEHIND = "a trial's folder (result.json, student/) or a student's (student.json)"


@dataclass(frozen=True)
class Stored:
    """A student and what is known of it.

    place: the trial's folder, or the student's own where no trial is around it; about: its
    student.json; record: the trial's result.json, None without a trial. A student without a
    network (`teacher_pca:K`) has no model, and about says no more than its spec.
    """

    place: str
    model: Student | None
    about: dict[str, Any]
    record: dict[str, Any] | None

    @property
    def sha256(self) -> str:
        """Of the student's weights file, "" without one."""
        return self.about.get("sha256", "")

    @property
    def network(self) -> Student:
        """The model. Raises: ValueError for a student without one."""
        if self.model is None:
            raise ValueError(f"{self.place}: student `{self.about['spec']}` has no network")
        return self.model


def read_json(place: str) -> dict[str, Any]:
    """Raises: ValueError for what is not a JSON object; OSError."""
    try:
        value = json.loads(storage.read(place))
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: got {str(value)[:40]!r}; expected a JSON object")
    return value


def fetch_student(place: str) -> tuple[Student, dict[str, Any]]:
    """The student in a folder or at a URL, on the CPU, in evaluation mode, and its student.json.

    Raises: those of `trainers.students.files.load_student`.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in (WEIGHTS, RECORD):
            Path(folder, name).write_bytes(storage.read(storage.join(place, name)))
        try:
            return load_student(folder), json.loads(Path(folder, RECORD).read_bytes())
        except ValueError as error:
            raise ValueError(str(error).replace(folder, place)) from None


def open_stored(place: str) -> Stored:
    """A trial's folder, the student/ in it, or a student's folder alone.

    Raises: ValueError for a folder that is none of these, or holds damaged files; OSError.
    """
    if storage.is_local(place):
        place = str(storage.local_path(place).resolve())
    if storage.exists(storage.join(place, RESULT)):
        return _of_trial(place)
    if not storage.exists(storage.join(place, RECORD)):
        raise ValueError(f"{place}: expected {LEFT_BEHIND}")
    trial, _, name = place.rstrip("/").rpartition("/")
    if name == STUDENT and storage.exists(storage.join(trial, RESULT)):
        return _of_trial(trial)
    return Stored(place, *fetch_student(place), None)


def _of_trial(place: str) -> Stored:
    record = read_json(storage.join(place, RESULT))
    spec = record["config"]["student"]
    if has_no_network(spec):
        return Stored(place, None, {"spec": spec}, record)
    return Stored(place, *fetch_student(storage.join(place, STUDENT)), record)


def student_sha256(place: str, record: dict[str, Any]) -> str:
    """sha256 of a finished trial's weights, by its student.json, which loading checks."""
    if has_no_network(record["config"]["student"]):
        return ""
    return str(read_json(storage.join(place, STUDENT, RECORD)).get("sha256"))


def trials_at(place: str) -> list[str]:
    """The finished trials of a run's folder, or `place` itself where it is no run's folder."""
    root = storage.join(place, "trials")
    trials = [storage.join(root, name) for name in storage.names(root)]
    if not trials:
        return [place]
    found = [trial for trial in trials if storage.exists(storage.join(trial, RESULT))]
    if not found:
        raise ValueError(f"{root}: none of {len(trials)} trials is finished")
    return found


def teacher_in(manifest: Manifest, stored: Stored, bank: str) -> TeacherRecord:
    """The teacher that the student was distilled from, as a bank has it.

    Raises: ValueError where the bank's has other weights, or which one is meant cannot be told.
    """
    teachers = manifest.plan.teachers
    if stored.record is None:
        if len(teachers) > 1:
            specs = ", ".join(teacher.spec for teacher in teachers)
            raise ValueError(
                f"{stored.place}: no trial's record says which teacher of {bank} is meant "
                f"({specs}); give the trial's folder"
            )
        return next(iter(teachers))
    teacher = teachers[manifest.plan.teacher_index(stored.record["config"]["teacher"])]
    if teacher.weights_sha256 != stored.record["weights_sha256"]:
        raise ValueError(
            f"{bank}: teacher weights {teacher.weights_sha256[:16]}, the student in {stored.place} "
            f"was distilled from {stored.record['weights_sha256'][:16]}"
        )
    return teacher


def preprocess_of(stored: Stored, manifest: Manifest | None = None, bank: str = "") -> Preprocess:
    """How the student's images are prepared: from the trial's record, else from its bank.

    Raises: ValueError where neither says it.
    """
    told = (stored.record or {}).get("input")
    if told:
        return Preprocess.model_validate(told["preprocess"])
    if manifest is None:
        raise ValueError(
            f"{stored.place}: nothing here says how its images are normalised; name the shards "
            "that it was trained on with --bank"
        )
    preprocess = teacher_in(manifest, stored, bank).preprocess
    native = manifest.plan.dataset.image_size
    for found in (preprocess.native(native), preprocess):
        if found.size == stored.about["image_size"]:
            return found
    raise ValueError(
        f"{bank}: images of {native} or {preprocess.size} pixels; the student in {stored.place} "
        f"takes {stored.about['image_size']}"
    )
