"""What a sweep is expected to take before it starts, and by which calibration."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from shards.teachers import embedding_dim
from sweep.planning.banks import BankJob
from sweep.planning.benchmark import calibrate, missing, seconds_per_sample
from sweep.planning.calibration import (
    Calibration,
    own_calibration,
    own_file,
    read_calibration,
    write_calibration,
)
from sweep.planning.estimate import build_seconds, estimate
from sweep.planning.kinds import Kind, kinds_of
from sweep.planning.makespan import makespan
from sweep.planning.prices import Prices, read_prices
from sweep.planning.remaining import STARTING
from sweep.planning.resources import Resources, share_of
from sweep.planning.room import bytes_needed
from sweep.planning.sizes import input_side
from sweep.planning.trial_seconds import Seconds, nominal, seconds_of
from trainers.config.schema import TrialConfig
from trainers.students.teacher_pca import has_no_network


def seconds_here(trials: Sequence[TrialConfig]) -> dict[str, Seconds]:
    """{trial identity: what it takes on this machine's CPU}.

    By the machine's calibration where a dry run has made one. Else a few training steps of each
    different student are timed, and the rest is nominal.
    """
    kinds, known = kinds_of(trials), own_calibration()
    calibrated = known.device == "cpu" and not missing([kind for kind, _ in kinds], known)
    found: dict[str, Seconds] = {}
    for kind, members in kinds:
        seconds = seconds_of(kind, known if calibrated else _timed(kind))
        found |= {config.identity: seconds for config in members}
    return found


def _timed(kind: Kind) -> Calibration:
    """A nominal calibration but for the student, of which a few training steps are timed."""
    config, a_sample = kind.config, 0.0
    if not has_no_network(config.student):
        dim, side = embedding_dim(config.teacher), input_side(config)
        a_sample = seconds_per_sample(config.student, dim, side, config.threads)
    return nominal(kind, a_sample)


def wall_seconds(
    trials: Sequence[TrialConfig], seconds: dict[str, Seconds], resources: Resources
) -> float:
    """Seconds of all trials together on this machine's CPUs. seconds: by `seconds_here`."""
    each = [(seconds[c.identity].whole, share_of(c, resources, on_cpu=True)) for c in trials]
    return STARTING + makespan(each, resources.local_cpus(), most=resources.concurrent)


@dataclass(frozen=True)
class Expected:
    """What a sweep is expected to take, as plan.json keeps it.

    trial_seconds: {trial identity: on its device}. trial_shares: {trial identity: how many devices
    it takes}. price: of one device for an hour. Both empty where nothing was calibrated.
    wall_seconds, hours, money: of all trials, None and empty where nothing was calibrated or the
    number of devices is not known. device, currency: of these. build_money: of building the banks,
    not kept.
    """

    trial_seconds: dict[str, float]
    trial_shares: dict[str, float] = field(default_factory=dict[str, float])
    price: float | None = None
    wall_seconds: float | None = None
    hours: float | None = None
    money: float | None = None
    device: str = ""
    currency: str = ""
    build_money: float = 0.0

    def as_recorded(self) -> dict[str, Any]:
        """Its fields in plan.json."""
        return {name: value for name, value in asdict(self).items() if name != "build_money"}


def expected(
    trials: Sequence[TrialConfig],
    jobs: Sequence[BankJob],
    known: Calibration,
    prices: Prices,
    devices: int | None,
    resources: Resources,
    remote: bool,
) -> Expected:
    """By a calibration. Raises: as `estimate`."""
    kinds = kinds_of(trials)
    seconds = {
        config.identity: taken
        for kind, members in kinds
        for taken in [seconds_of(kind, known).whole]
        for config in members
    }
    price = prices.hour(known.device)
    found = Expected(
        seconds,
        {c.identity: share_of(c, resources, known.device == "cpu") for c in trials},
        price,
        device=known.device,
        currency=prices.currency,
        build_money=build_seconds(jobs, known) / 3600 * price,
    )
    if devices is None:
        return found
    stored = bytes_needed(list(trials), list(jobs))
    whole = estimate(kinds, jobs, known, prices, devices, resources, stored, remote)
    return replace(
        found,
        wall_seconds=whole.wall_seconds,
        hours=sum(whole.hours.values()),
        money=whole.total_money,
    )


def expected_here(
    trials: Sequence[TrialConfig],
    jobs: Sequence[BankJob],
    seconds: dict[str, Seconds],
    resources: Resources,
) -> Expected:
    """On this machine: by its calibration where a dry run has made one, else by `seconds`.

    seconds: by `seconds_here`.
    """
    known = own_calibration()
    if missing([kind for kind, _ in kinds_of(trials)], known):
        each = {config.identity: seconds[config.identity].whole for config in trials}
        return Expected(each, wall_seconds=wall_seconds(trials, seconds, resources))
    devices = resources.local_cpus() if known.device == "cpu" else torch.cuda.device_count()
    return expected(trials, jobs, known, read_prices(None), devices, resources, remote=False)


def calibration_for(kinds: list[Kind], file: str | None, again: bool) -> Calibration:
    """The calibration in `file`; without one this machine's, where what is missing is measured.

    again: measure everything on this machine, and write it to `file`, or to this machine's own.

    Raises: ValueError for a wrong file; OSError.
    """
    if file and not again:
        return read_calibration(file)
    known = own_calibration()
    if again:
        known = Calibration(device=known.device, machine=known.machine)
    if again or missing(kinds, known):
        known = calibrate(kinds, known)
        with contextlib.suppress(OSError):  # a read-only cache costs time, nothing else
            write_calibration(str(own_file()), own_calibration().joined(known))
    if file:
        write_calibration(file, known)
    return known
