"""What a sweep is given, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweep.journal.run_record import RunRecord
from sweep.planning.costs import Expected
from sweep.planning.early_stopping import EarlyStopping
from sweep.planning.limits import Limits
from sweep.planning.resources import Resources
from sweep.running.holding import Hold


@dataclass(frozen=True)
class Sweep:
    """Where a sweep runs and where it writes.

    Attributes:
        folder: of the journal and the report, on this machine.
        store: folder or URL of banks, trial results and checkpoints.
        resources: Ray's address, and what each trial may use.
        record: the run's, from run.json.
        hold: this sweep's right to work on the store.
        retry_failed: whether trials run that failed in an earlier run of the sweep in `folder`.
        teacher_robustness: whether new banks hold the teacher's figures under the test arms in
            place of its embeddings.
        early_stopping: the rule by which trials are stopped early; None: none are.
        first: {trial identity: number} of trials that start before the others, the lowest first.
        limits: money and time after which no more trials start. They need `expected`, and price:
            of one GPU, or core, for an hour.
        expected: what the sweep is expected to take; None: estimated here where that can be.
        owns_process: whether this process is a command's own: it is replaced when Ray dies in it,
            and ended by a second Ctrl-C. Otherwise both raise an error.
    """

    folder: Path
    store: str
    resources: Resources
    record: RunRecord
    hold: Hold
    retry_failed: bool = True
    teacher_robustness: bool = False
    early_stopping: EarlyStopping | None = None
    first: Mapping[str, int] = field(default_factory=dict)
    limits: Limits | None = None
    price: float = 0.0
    expected: Expected | None = None
    owns_process: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        failed: {trial identity: error} of the trials that failed.
        stopped: {trial identity: where it was stopped} of those that ended on request.
        stopped_early: {trial identity: when and why} of those that early stopping ended.
        left: how many trials are still to be run, because the sweep ended on request or at a limit.
        limit: which limit was reached, in one line; None: none was.
    """

    failed: dict[str, str]
    stopped: dict[str, str]
    stopped_early: dict[str, str]
    left: int
    limit: str | None = None
