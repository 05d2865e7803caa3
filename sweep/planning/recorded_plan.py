"""plan.json: what a sweep was expected to cost when it started, and which program ran it.

The report sets the actual times beside the planned ones, and says which commit made the numbers.
Each start adds an entry.
"""

from __future__ import annotations

import json
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from shards.support import storage
from shards.support.schema import StrictModel

FILE = "plan.json"


class PlannedStart(StrictModel):
    """One start of a sweep.

    started_ms: milliseconds since 1970. version, commit: of this program; None where unknown, and a
    commit ends in `+changes` where files differed from it. seconds: {trial identity: of its
    training on one core of the machine that planned it}. wall_seconds: of all trials; None where
    they run on a cluster, of which nothing is known beforehand.
    """

    started_ms: int
    version: str | None = None
    commit: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    wall_seconds: float | None = None


class RecordedPlan(StrictModel):
    """The content of plan.json, in the order of the starts."""

    starts: tuple[PlannedStart, ...] = ()


def record_plan(folder: Path, seconds: dict[str, float], wall_seconds: float | None) -> None:
    """Add a start to plan.json of `folder`. Raises: ValueError for a damaged file; OSError."""
    new = PlannedStart(
        started_ms=int(time.time() * 1000),
        version=program_version(),
        commit=program_commit(),
        seconds=seconds,
        wall_seconds=wall_seconds,
    )
    after = RecordedPlan(starts=(*read_plan(folder).starts, new))
    storage.write_json(str(folder / FILE), after.model_dump(mode="json"))


def read_plan(folder: Path) -> RecordedPlan:
    """The plan of a run; without starts where it has none. Raises: ValueError; OSError."""
    path = folder / FILE
    if not path.exists():
        return RecordedPlan()
    try:
        return RecordedPlan.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: not readable ({error}); delete it") from None


def program_version() -> str | None:
    """Of the installed distribution; None where the program runs from a folder."""
    try:
        return version("distilsweep")
    except PackageNotFoundError:
        return None


def program_commit() -> str | None:
    """Of the repository that this file is in; None where it is in none."""
    here = str(Path(__file__).parent)

    def git(*words: str) -> str:
        run = ["git", "-C", here, *words]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):
            return None  # installed into somebody else's repository
        changes = "+changes" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.CalledProcessError):
        return None
