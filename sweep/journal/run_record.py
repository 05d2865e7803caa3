"""Which run a folder is, and what its store says about it.

    FOLDER/run.json        the run's id and name, and where its store is
    STORE/sweeps/ID.json   the run's id and name, and its trials with their planned steps

The id is drawn once and travels with the folder: MLflow's runs are found by it, so a folder that
was moved or copied is still the same run there. The file in the store says which of the trials
that lie there belong to the run, for those who cannot see the folder: another machine, or everyone
once the machine that ran the sweep is gone.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Literal

from shards.support import storage
from shards.support.schema import StrictModel, parsed
from sweep.planning.remaining import Timing

RUN = "run.json"
SWEEPS = "sweeps"
HERE = "."  # in place of the store's location where it is the run folder itself
TRAINING = 0.9  # a trial's share that is training, in a plan that has no seconds
SECONDS_OF_WORK = 1e-9  # of a plan that has no seconds; only their ratios mean something


class RunRecord(StrictModel):
    """The content of run.json. store: path, URL, or HERE."""

    format: Literal["run/1"] = "run/1"
    id: str
    name: str
    store: str

    def store_of(self, folder: Path) -> str:
        """Path or URL of the store; `folder` is where run.json was read."""
        return str(folder.resolve()) if self.store == HERE else self.store


class PlannedTrial(StrictModel):
    """What a trial costs: optimiser steps, and relative costs (see `sweep.planning.sizes`).

    work: of its training. weight: of all of it. training, embedding, probing: planned seconds, see
    `sweep.planning.trial_seconds`; None before they were recorded. timed: whether on a machine like
    the one that runs the trial. ranks: processes that run it together.
    """

    steps: int
    work: float
    weight: float
    training: float | None = None
    embedding: float = 0.0
    probing: float = 0.0
    timed: bool = False
    ranks: int = 1

    def done(self, steps: int) -> float:
        """How much of the trial so many steps are, 0 to 1; what is left then is measuring it."""
        training = TRAINING if self.training is None else self.training / max(1e-9, self.cost)
        return training * min(1.0, steps / max(1, self.steps))

    @property
    def cost(self) -> float:
        """Of the trial as a part of the sweep: planned seconds, or its weight in an older plan."""
        if self.training is None:
            return self.weight
        return self.training + self.embedding + self.probing

    def timing(self) -> Timing:
        """A timing of which nothing is known yet but the plan."""
        training = self.work * SECONDS_OF_WORK if self.training is None else self.training
        steps = max(1, self.steps)
        return Timing(training, steps, self.embedding, self.probing, self.timed, self.ranks)


class StoredSweep(StrictModel):
    """The content of sweeps/ID.json.

    trials: those of the command that ran last. earlier: identities of other trials that earlier
    commands of this run had. slots: how many ranks run at a time, None where that is not known.
    """

    format: Literal["sweep/1"] = "sweep/1"
    id: str
    name: str
    trials: dict[str, PlannedTrial]
    earlier: tuple[str, ...] = ()
    slots: int | None = None

    @property
    def identities(self) -> list[str]:
        """Of all trials that the run ever had."""
        return [*self.earlier, *self.trials]


# ---- the run folder ----


def read_record(folder: Path) -> RunRecord | None:
    """The content of run.json; None where there is none. Raises: ValueError; OSError."""
    path = folder / RUN
    return parsed(RunRecord, path.read_bytes(), str(path)) if path.exists() else None


def id_before_records(folder: Path) -> str:
    """The id in MLflow of a folder that had no run.json: its path's hash."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def open_record(folder: Path, store: str, name: str) -> RunRecord:
    """The folder's run.json, made where there is none; `store` replaces an earlier one.

    Raises: ValueError for a damaged file; OSError.
    """
    place = _place(folder, store)
    before = read_record(folder)
    if before is None:
        record = RunRecord(id=secrets.token_hex(8), name=name, store=place)
        if (folder / "journal.jsonl").exists():
            # A folder from before there were ids: its experiment in MLflow has its name.
            id = id_before_records(folder)
            record = RunRecord(id=id, name=folder.resolve().name, store=place)
    else:
        record = before.model_copy(update={"store": place})
    if record != before:
        storage.write_json(str(folder / RUN), record.model_dump(mode="json"))
    return record


def keep_record(folder: Path, store: str, sweep: StoredSweep) -> None:
    """Make `folder` the run's folder where it has no run.json, for example because it was lost.

    Raises: ValueError where it is the folder of another run; OSError.
    """
    before = read_record(folder)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        place = _place(folder, store)
        record = RunRecord(id=sweep.id, name=sweep.name, store=place)
        storage.write_json(str(folder / RUN), record.model_dump(mode="json"))
    elif before.id != sweep.id:
        raise ValueError(
            f"{folder}: is the folder of run {before.name} ({before.id}), not of {sweep.name} "
            f"({sweep.id}); choose another --out"
        )


def _place(folder: Path, store: str) -> str:
    """What run.json says of the store."""
    place = str(storage.local_path(store).resolve()) if storage.is_local(store) else store
    return HERE if place == str(folder.resolve()) else place


# ---- the store ----


def sweep_file(store: str, id: str) -> str:
    return storage.join(store, SWEEPS, f"{id}.json")


def read_sweep(store: str, id: str) -> StoredSweep:
    """What the store says of a run. Raises: FileNotFoundError; ValueError; OSError."""
    file = sweep_file(store, id)
    return parsed(StoredSweep, storage.read(file), file)


def sweeps_in(store: str) -> list[StoredSweep]:
    """All runs that the store knows, by id. Raises: ValueError; OSError."""
    names = storage.names(storage.join(store, SWEEPS))
    ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return [read_sweep(store, id) for id in ids if not id.startswith(".")]


def find_sweep(run: str, named: str | None = None) -> tuple[str, StoredSweep]:
    """(store, what it says of the sweep) for a run folder, or for the location of a store.

    named: id or name of a sweep, where the store has several.
    Raises: ValueError where there is none, or several to choose from; OSError.
    """
    record = None
    if storage.is_local(run):
        folder = storage.local_path(run)
        if not folder.is_dir():
            raise ValueError(f"{run}: no such folder; expected a run folder, or a store")
        record = read_record(folder)
    if record is not None and named is None:
        store = record.store_of(storage.local_path(run))
        try:
            return store, read_sweep(store, record.id)
        except FileNotFoundError:
            raise ValueError(
                f"{run}: its store {store} does not know it; run the sweep again"
            ) from None
    store = record.store_of(storage.local_path(run)) if record else run
    found = sweeps_in(store)
    if named is not None:
        found = [sweep for sweep in found if named in (sweep.id, sweep.name)]
    if len(found) == 1:
        return store, found[0]
    if not found:
        what = f"no sweep `{named}`" if named else "no sweep"
        raise ValueError(f"{store}: {what} in {SWEEPS}/; expected what `sweep.run` wrote to")
    names = ", ".join(f"{sweep.name} ({sweep.id})" for sweep in found)
    raise ValueError(f"{store}: several sweeps, choose one with --sweep: {names}")


def record_sweep(
    store: str, record: RunRecord, trials: dict[str, PlannedTrial], slots: int | None = None
) -> None:
    """Write the run's trials into the store; slots: see StoredSweep.

    Raises: OSError; ValueError for a damaged file.
    """
    try:
        before = read_sweep(store, record.id)
    except FileNotFoundError:
        before = None
    known = before.identities if before else []
    earlier = tuple(trial for trial in known if trial not in trials)
    after = StoredSweep(id=record.id, name=record.name, trials=trials, earlier=earlier, slots=slots)
    if after != before:
        storage.write_json(sweep_file(store, record.id), after.model_dump(mode="json"))
