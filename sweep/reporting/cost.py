"""What the trials of a report took, beside what the plan expected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweep.planning.recorded_plan import PlannedStart
from sweep.reporting.facts import TIMES, clock
from sweep.reporting.groups import natural, number, text_of
from sweep.reporting.stat import Frame
from sweep.reporting.tables import Cell, Table

SECONDS = "trial_seconds"


def cost(trials: Frame, planned: Sequence[PlannedStart]) -> Table | None:
    """Time of trials by student, hours and money in all, each beside what the plan expected.

    Also by device where there are several: an hour of one is not an hour of another.
    """
    if not {*TIMES, SECONDS} <= set(trials.columns):
        return None
    known = trials[(trials["status"] == "finished") & trials[SECONDS].notna()]
    if not len(known):
        return None
    keys = ["student", *(["device"] if _devices(known) > 1 else [])]
    columns = [*map(Cell, keys), Cell("trials", number=True), Cell("seconds a trial", number=True)]
    columns += [Cell("planned", number=True), Cell("ratio", number=True)]
    columns += [Cell("all, hours", number=True)]
    expected = {
        t: s for start in planned for t, s in (start.trial_seconds or start.seconds).items()
    }
    rows = []
    for names, own in known.groupby(keys, dropna=False):
        values = own[SECONDS].astype(float)
        guess = [expected[t] for t in own["trial"] if t in expected]
        mean = float(np.mean(guess)) if guess else None
        sub = f"± {number(values.std(), 1)}" if len(values) > 1 else ""
        rows.append([
            *(Cell(text_of(name)) for name in names), Cell(str(len(own)), len(own), number=True),
            Cell(number(values.mean(), 1), values.mean(), sub, number=True),
            Cell(number(mean, 1) if mean else "–", mean or "", number=True),
            Cell(number(values.mean() / mean, 2) if mean else "–", number=True),
            Cell(number(values.sum() / 3600, 2), values.sum(), number=True),
        ])  # fmt: skip
    rows.sort(key=lambda row: [natural(cell.text) for cell in row[: len(keys)]])
    return Table("cost", "Planned and actual cost", columns, rows, _cost_note(known, planned))


def _devices(trials: Frame) -> int:
    """How many kinds of device trials ran on."""
    return len(set(map(str, trials["device"]))) if "device" in trials else 1


def _cost_note(known: Frame, planned: Sequence[PlannedStart]) -> str:
    """Wall time, hours and money of the finished trials, beside the plan if it is of them all."""
    wall = (known["ended_ms"].max() - known["started_ms"].min()) / 1000
    note = (
        "Times are from a trial’s start on its worker to its result, measurements included; of a "
        "trial that was interrupted, those of its attempts, each up to the last that it reported. "
        f"All {len(known)} trials together took {clock(wall)} of wall time"
    )
    if any(not start.trial_seconds and start.seconds for start in planned):
        note += " (this plan, of an earlier version, is of training alone)"
    # Of several starts each planned what was left, so none of them is the plan of all trials; nor
    # is that of a search, whose later trials were not known yet.
    whole = planned[0] if len(planned) == 1 else None
    if whole and whole.trial_seconds and not whole.trial_seconds.keys() >= set(known["trial"]):
        whole = None
    if whole and whole.wall_seconds:
        ratio = wall / whole.wall_seconds
        note += f"; the plan said {clock(whole.wall_seconds)} ({ratio:.1f} times as long)"
    return f"{note}{_money_note(known, whole) if whole else ''}."


def _money_note(known: Frame, plan: PlannedStart) -> str:
    """Device-hours and money of the trials beside the plan of them all; empty without prices.

    The devices that a trial takes and their price are not in plans of earlier versions; and the
    price is of one kind of device.
    """
    unit = "core-hours" if plan.device == "cpu" else "GPU-hours"
    shares, note = plan.trial_shares, ""
    price = plan.price if shares.keys() >= set(known["trial"]) and _devices(known) == 1 else None
    if price is not None:
        pairs = zip(known["trial"], known[SECONDS], strict=True)
        taken = sum(shares[trial] * seconds for trial, seconds in pairs) / 3600
        expected = sum(shares[trial] * plan.trial_seconds[trial] for trial in known["trial"]) / 3600
        note += (
            f". In {unit}, trials took {taken:.3g} where {expected:.3g} were planned, about "
            f"{taken * price:,.2f} against {expected * price:,.2f} {plan.currency}"
        )
    if plan.hours and plan.money is not None:
        note += (
            f"{'; with' if note else '. With'} building, start and set-up the plan was "
            f"{plan.hours:.3g} {unit} and {plan.money:,.2f} {plan.currency}"
        )
    return note
