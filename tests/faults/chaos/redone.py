"""How much training was done twice: from where each attempt went on, and what was there before it.

An attempt notes in the trial's journal that it starts, looks for checkpoints, and then notes from
which step it trains. Two things must hold for that step, however slow the machine is:

- A checkpoint that was seen while the journal had no `start` of the attempt was published before
  it looked. So it goes on from that one or from a newer one.
- A trial saves after the first check of its losses at which the time between two checkpoints has
  passed since the last one, and it checks at the end of every epoch, before the epoch's row is
  stored. So of all rows of one attempt that are trained again, first and last lie less than that
  time apart: the first was made after the checkpoint, and at the last none was due. A machine that
  stands still in between makes one due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers.results.folder import RESULT
from trainers.results.trial_journal import Row, read_rows
from trainers.training.checkpoint import Checkpoints

# Rows have the time of the wall clock, which may be set meanwhile; a checkpoint is due by another.
MARGIN = 0.1


@dataclass
class Redone:
    """What the attempts that followed another one of the same trial did again.

    Attributes:
        attempts: how many of them began to train.
        from_checkpoint: before how many a checkpoint had been seen, from which they had to go on.
        steps: the most that the rows before an attempt were ahead of the step where it went on.
        seconds: the most time between rows that were trained again.
    """

    attempts: int = 0
    from_checkpoint: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, other: Redone) -> None:
        self.attempts += other.attempts
        self.from_checkpoint += other.from_checkpoint
        self.steps = max(self.steps, other.steps)
        self.seconds = max(self.seconds, other.seconds)


@dataclass
class Attempt:
    """One attempt of a trial, by its rows.

    first: (step, ms) where and when it began to train, None where it ended before. rows: the same
    of its epochs, without those that an earlier attempt had stored.
    """

    first: tuple[int, int] | None = None
    rows: list[tuple[int, int]] = field(default_factory=list)

    def beyond(self, step: int) -> tuple[int, float]:
        """(steps, seconds) that are trained again where a later attempt goes on from `step`."""
        again = [row for row in self.rows if row[0] > step]
        # It went on from there itself, and saved nothing later.
        if self.first is not None and self.first[0] >= step:
            again.insert(0, self.first)
        if not again:
            return 0, 0.0
        return max(row[0] for row in again) - step, (again[-1][1] - again[0][1]) / 1000


def attempts_of(rows: list[Row]) -> list[Attempt]:
    """The attempts in the rows of a trial's journal."""
    found: list[Attempt] = []
    for row in rows:
        if row["event"] == "start":
            found.append(Attempt())
        elif row["event"] == "resumed":
            found[-1].first = (row["step"], row["time_ms"])
        elif row["event"] == "epoch":
            found[-1].rows.append((row["step"], row["time_ms"]))
    return found


class Seen:
    """The checkpoints of one trial that were seen: (how many attempts had begun, newest step)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen = [(0, 0)]

    def look(self) -> None:
        """Note the newest checkpoint, unless it was seen before. Call it as often as possible."""
        step = max(Checkpoints(str(self.folder / "checkpoints"), {}).steps(), default=0)
        if step > self._seen[-1][1]:
            # In this order: an attempt that has begun by now may have looked before it was there.
            self._seen.append((len(attempts_of(read_rows(str(self.folder)))), step))

    def before(self, attempt: int) -> int:
        """The newest step that was seen before this attempt; they are counted from 0."""
        return max(step for begun, step in self._seen if begun <= attempt)


def redone(seen: Seen, interval: float) -> tuple[Redone, list[str]]:
    """What one trial did again, and in which way that was too much, one line each.

    interval: seconds between two checkpoints.
    """
    attempts, most, found = attempts_of(read_rows(str(seen.folder))), Redone(), list[str]()
    for number, attempt in enumerate(attempts):
        if attempt.first is None or number == 0:
            continue
        step, newest = attempt.first[0], seen.before(number)
        again = [earlier.beyond(step) for earlier in attempts[:number]]
        steps, seconds = max(s for s, _ in again), max(s for _, s in again)
        most.add(Redone(1, int(newest > 0), steps, seconds))
        where = f"trial {seen.folder.name}: attempt {number + 1} went on from step {step}"
        if step < newest:
            found.append(f"{where}, though there was a checkpoint of step {newest}")
        if seconds >= interval + MARGIN:
            found.append(f"{where}: {seconds:g} s of training again, saved every {interval:g} s")
    # Otherwise nothing would be compared if the rows were missing.
    if (seen.folder / RESULT).exists() and (not attempts or attempts[-1].first is None):
        found.append(f"trial {seen.folder.name}: its journal does not say where it went on last")
    return most, found
