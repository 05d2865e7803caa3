"""`precision: auto` of a grid: fp32 or bf16 for all of its trials, chosen once by measuring.

    fixed:
      precision: auto       # or --set precision=auto

Before a sweep's first trial, a training step of each of its students is timed in fp32 and in bf16.
bf16 is taken where all trials together would train at least GAIN times as fast, and is then the
field `precision` of each of them. All trials have the same, for a comparison of students must not
be one of precisions. The choice is kept in the store, so that a sweep that goes on elsewhere keeps
it; without it the same trials could come out under another identity.

Times are those of a calibration, see sweep.planning.calibration: on a cluster that of the machines
which train, given as --calibration, and otherwise that of this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from shards.support import storage
from shards.support.memory import keeping_freed_memory
from shards.support.schema import StrictModel, parsed
from sweep.planning.benchmark import student_speed
from sweep.planning.calibration import (
    Calibration,
    own_calibration,
    own_file,
    read_calibration,
    write_calibration,
)
from sweep.planning.expand import expand
from sweep.planning.fields import AUTO, PRECISION
from sweep.planning.grid import Grid
from sweep.planning.kinds import Kind, kinds_of
from trainers.students.teacher_pca import has_no_network

FILE = "precision.json"
DEFAULT, HALF = "fp32", "bf16"
GAIN = 1.05


class Chosen(StrictModel):
    """A choice: seconds of all trials' training in each precision on one device.

    The time of augmenting and measuring, which no precision changes, is not in the seconds.
    """

    precision: str
    seconds: Mapping[str, float]
    device: str
    date: str

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {value:.3g} s" for name, value in self.seconds.items())
        return f"{self.precision} ({self.device}, {self.date}: {listed})"


class Choices(StrictModel):
    """The content of precision.json: {name of a grid: its choice}."""

    grids: Mapping[str, Chosen] = {}


def with_precision(grid: Grid, precision: str) -> Grid:
    """The grid with this precision in place of `auto`."""
    fixed = grid.fixed | ({PRECISION: precision} if grid.fixed.get(PRECISION) == AUTO else {})
    parts = tuple(with_precision(part, precision) for part in grid.parts)
    return replace(grid, fixed=fixed, parts=parts)


def choose(grid: Grid, store: str, calibration: str | None, here: bool = True) -> Chosen:
    """The choice for all trials of a grid with `auto`: that in the store, or one by measuring.

    calibration: a file, or None for this machine's, where what is missing is measured. here:
    whether this machine trains, so that its own times may decide.

    Raises: ValueError, of one line, for a grid that is wrong, or of which the calibration lacks a
    student, and for a damaged precision.json; OSError.
    """
    recorded = _read(store).grids.get(grid.name)
    if recorded is not None:
        return recorded
    if not (here or calibration):
        raise ValueError(
            "precision: auto: on a cluster it needs the --calibration FILE of its machines, "
            "recorded there by --dry-run --calibrate --calibration FILE"
        )
    return _measured(grid, calibration)


def record(store: str, name: str, chosen: Chosen) -> None:
    """Keep the choice for the grid of that name. Raises: as `choose`."""
    before = _read(store).grids
    if name not in before:
        after = Choices(grids={**before, name: chosen})
        storage.write_json(storage.join(store, FILE), after.model_dump(mode="json"))


def _read(store: str) -> Choices:
    path = storage.join(store, FILE)
    return parsed(Choices, storage.read(path), path) if storage.exists(path) else Choices()


def _measured(grid: Grid, calibration: str | None) -> Chosen:
    counted = {
        precision: [
            (kind, len(members))
            for kind, members in kinds_of(expand(with_precision(grid, precision)))
            if not has_no_network(kind.config.student)
        ]
        for precision in (DEFAULT, HALF)
    }
    known = _speeds([kind for kinds in counted.values() for kind, _ in kinds], calibration)
    seconds = {
        precision: sum(
            kind.seen * count * known.entry("students", kind.student).train for kind, count in kinds
        )
        for precision, kinds in counted.items()
    }
    wins = seconds[DEFAULT] > GAIN * seconds[HALF]
    return Chosen(
        precision=HALF if wins else DEFAULT, seconds=seconds, device=known.device, date=known.date
    )


def _speeds(kinds: list[Kind], file: str | None) -> Calibration:
    """The calibration in `file`, or this machine's with the students of `kinds`."""
    if file:
        return read_calibration(file)
    known: Any = own_calibration()
    device = torch.device("cpu" if known.device == "cpu" else "cuda")
    new = {kind.student: kind for kind in kinds if kind.student not in known.students}
    if new:
        with keeping_freed_memory():  # as trials do
            speeds = {key: student_speed(kind, device) for key, kind in new.items()}
        known = known.joined(known.model_copy(update={"students": speeds}))
        with contextlib.suppress(OSError):  # a read-only cache costs time, nothing else
            write_calibration(str(own_file()), known)
    return known
