"""plan.json: what a sweep was expected to cost when it started, and which program ran it.

The report sets the actual times beside the planned ones, and says which commit made the numbers.
Each start adds an entry.
"""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field

from shards.support import storage
from shards.support.commit import commit_of_code
from shards.support.schema import StrictModel, parsed

FILE = "plan.json"


class PlannedStart(StrictModel):
    """One start of a sweep.

    started_ms: milliseconds since 1970. version, commit: of this program; None where unknown, see
    `commit_of_code`. seconds: {trial identity: of its training alone}, in plans of earlier
    versions. trial_seconds: {trial identity: from its start to its result}. trial_shares: {trial
    identity: how many of `device` it takes meanwhile}. price: of one `device` for an hour, in
    `currency`; both empty in plans of earlier versions. wall_seconds: of all trials; None where
    they run on a cluster whose size is not known. hours: of `device` in all, money: their price
    with head, storage and requests. What is about devices and money is there where the machine was
    calibrated (`--dry-run` does it).
    """

    started_ms: int
    version: str | None = None
    commit: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    trial_seconds: dict[str, float] = Field(default_factory=dict)
    trial_shares: dict[str, float] = Field(default_factory=dict)
    price: float | None = None
    wall_seconds: float | None = None
    hours: float | None = None
    money: float | None = None
    device: str = ""
    currency: str = ""


class RecordedPlan(StrictModel):
    """The content of plan.json, in the order of the starts."""

    starts: tuple[PlannedStart, ...] = ()


def record_plan(folder: Path, **planned: Any) -> None:
    """Add a start to plan.json of `folder`. planned: fields of `PlannedStart`.

    Raises: ValueError for a damaged file; OSError.
    """
    new = PlannedStart(
        started_ms=int(time.time() * 1000),
        version=_version(),
        commit=commit_of_code() or None,
        **planned,
    )
    after = RecordedPlan(starts=(*read_plan(folder).starts, new))
    storage.write_json(str(folder / FILE), after.model_dump(mode="json"))


def read_plan(folder: Path) -> RecordedPlan:
    """The plan of a run; without starts where it has none. Raises: ValueError; OSError."""
    path = folder / FILE
    if not path.exists():
        return RecordedPlan()
    return parsed(RecordedPlan, path.read_bytes(), str(path))


def _version() -> str | None:
    """Of the installed distribution; None where the program runs from a folder."""
    try:
        return version("distilsweep")
    except PackageNotFoundError:
        return None
