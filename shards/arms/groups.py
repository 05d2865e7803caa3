"""GROUPS: short names for lists of arms, e.g. `test_arms: [cifar10c, bands]` in a config."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shards.arms import ARMS, described, make_arm
from shards.arms.cifar10c_files import NAMES
from shards.arms.corruptions import CORRUPTIONS, GAUSSIAN, SEVERITIES
from shards.arms.frequency import BANDS
from shards.support.registry import Table, split_spec

NOISES = (0, 0.02, 0.05, 0.1, 0.2)
PIXEL_NOISES = tuple(sorted({*NOISES, *GAUSSIAN}))
LOW = (0.125, 0.25, 0.375, 0.5, 0.75, 1)
HIGH = (0.0625, 0.125, 0.25, 0.5)


def _noise_pixel(argument: str) -> list[str]:
    """noise_pixel: noise:SIGMA for 0, 0.02, 0.05, 0.1, 0.2 and CIFAR-10-C's five levels"""
    return [f"noise:{sigma:g}" for sigma in PIXEL_NOISES]


def _noise_paper(argument: str) -> list[str]:
    """noise_paper: noise_normalised:SIGMA for 0, 0.02, 0.05, 0.1 and 0.2"""
    return [f"noise_normalised:{sigma}" for sigma in NOISES]


def _cifar10c(argument: str) -> list[str]:
    """cifar10c: CIFAR-10-C's 15 corruptions (procedural_frost for frost) at 5 severities"""
    return [f"{name}:{severity}" for name in CORRUPTIONS for severity in SEVERITIES]


def _cifar10c_stored(argument: str) -> list[str]:
    """cifar10c_stored: the published CIFAR-10-C files, 15 corruptions at 5 severities"""
    return [f"stored:{name}:{severity}" for name in NAMES for severity in SEVERITIES]


def _bands(argument: str) -> list[str]:
    """bands[:SIGMA]: band_noise in each of the 8 frequency bands (default 0.1)"""
    return [f"band_noise:{band}:{argument}" for band in range(1, BANDS + 1)]


def _low_passes(argument: str) -> list[str]:
    """low_passes: low_pass at six cutoffs from 1/8 to 1 x Nyquist"""
    return [f"low_pass:{cutoff}" for cutoff in LOW]


def _high_passes(argument: str) -> list[str]:
    """high_passes: high_pass at four cutoffs from 1/16 to 1/2 x Nyquist"""
    return [f"high_pass:{cutoff}" for cutoff in HIGH]


def _fourier_map(argument: str) -> list[str]:
    """fourier_map[:STEPS]: fourier over a grid of frequencies, STEPS (default 4) per axis"""
    if not (argument or "4").isdecimal() or not 1 <= int(argument or 4) <= 32:
        raise ValueError(f"arm `fourier_map:{argument}`: steps must be a whole number from 1 to 32")
    steps = int(argument or 4)
    # Half of the plane is enough: a real image has the same energy at (u, v) and (-u, -v).
    return [
        f"fourier:{down / steps:g}:{across / steps:g}"
        for down in range(steps + 1)
        for across in range(1 - steps if down else 0, steps + 1)
    ]


GROUPS: Table[Callable[[str], list[str]]] = Table(
    "group of arms",
    {
        "noise_pixel": _noise_pixel,
        "noise_paper": _noise_paper,
        "cifar10c": _cifar10c,
        "cifar10c_stored": _cifar10c_stored,
        "bands": _bands,
        "low_passes": _low_passes,
        "high_passes": _high_passes,
        "fourier_map": _fourier_map,
    },
)
WITH_ARGUMENT = ("bands", "fourier_map")


def describe_groups() -> list[tuple[str, str]]:
    """(spec syntax, one-line description) of every group, for `--help`."""
    return described(GROUPS)


def expand_arms(specs: Iterable[str]) -> tuple[str, ...]:
    """Canonical specs of the arms that `specs`, of arms and groups, name; each once, in order.

    Raises: ValueError for an unknown name or an option out of range.
    """
    found: dict[str, None] = {}
    for spec in specs:
        name, argument = split_spec(spec)
        if name not in GROUPS:
            # An unknown name raises, with the closest of the arms and groups.
            _ = Table("arm", dict.fromkeys([*ARMS, *GROUPS]))[name]
            found[make_arm(spec).spec] = None
            continue
        if argument and name not in WITH_ARGUMENT:
            raise ValueError(f"arm `{spec}`: the group `{name}` takes no option")
        found |= dict.fromkeys(make_arm(member).spec for member in GROUPS[name](argument))
    return tuple(found)
