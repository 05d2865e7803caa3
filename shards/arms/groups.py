"""GROUPS: short names for lists of arms to measure under, e.g. `test_arms: [cifar10c, bands]`."""

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
    """noise_pixel: noise of 0, 0.02, 0.05, 0.1, 0.2 and CIFAR-10-C's five in [0, 1] pixels"""
    return [f"noise:{sigma:g}" for sigma in PIXEL_NOISES]


def _noise_paper(argument: str) -> list[str]:
    """noise_paper: noise_normalised of 0, 0.02, 0.05, 0.1 and 0.2"""
    return [f"noise_normalised:{sigma}" for sigma in NOISES]


def _cifar10c(argument: str) -> list[str]:
    """cifar10c: 14 corruptions of CIFAR-10-C and procedural_frost, each at 5 severities"""
    return [f"{name}:{severity}" for name in CORRUPTIONS for severity in SEVERITIES]


def _cifar10c_stored(argument: str) -> list[str]:
    """cifar10c_stored: CIFAR-10-C's own files, 15 corruptions at 5 severities"""
    return [f"stored:{name}:{severity}" for name in NAMES for severity in SEVERITIES]


def _bands(argument: str) -> list[str]:
    """bands[:SIGMA]: band_noise in each of the 8 bands of frequency (default 0.1)"""
    return [f"band_noise:{band}:{argument}" for band in range(1, BANDS + 1)]


def _low_passes(argument: str) -> list[str]:
    """low_passes: low_pass at 1/8 to 1 of the pictures' Nyquist frequency"""
    return [f"low_pass:{cutoff}" for cutoff in LOW]


def _high_passes(argument: str) -> list[str]:
    """high_passes: high_pass at 1/16 to 1/2 of the pictures' Nyquist frequency"""
    return [f"high_pass:{cutoff}" for cutoff in HIGH]


def _fourier_map(argument: str) -> list[str]:
    """fourier_map[:STEPS]: fourier over the half plane up to Nyquist, STEPS (default 4) a side"""
    if not (argument or "4").isdecimal() or not 1 <= int(argument or 4) <= 32:
        raise ValueError(f"arm `fourier_map:{argument}`: steps must be a whole number from 1 to 32")
    steps = int(argument or 4)
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
    """Every group's spelling and what is in it, as `shards.arms.describe_arms` does."""
    return described(GROUPS)


def expand_arms(specs: Iterable[str]) -> tuple[str, ...]:
    """Arms and groups of arms -> canonical specs of arms, each once. Raises: ValueError."""
    found: dict[str, None] = {}
    for spec in specs:
        name, argument = split_spec(spec)
        if name not in GROUPS:
            _ = Table("arm", dict.fromkeys([*ARMS, *GROUPS]))[name]
            found[make_arm(spec).spec] = None
            continue
        if argument and name not in WITH_ARGUMENT:
            raise ValueError(f"arm `{spec}`: the group `{name}` takes no strength")
        found |= dict.fromkeys(make_arm(member).spec for member in GROUPS[name](argument))
    return tuple(found)
