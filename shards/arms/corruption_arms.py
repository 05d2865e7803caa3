"""Arms that only corrupt: what students are measured under (and may be trained on).

`CORRUPT_ARMS` is part of `shards.arms.ARMS`: CIFAR-10-C's corruptions by severity, stored
CIFAR-10-C files, noise by band of frequency, low and high pass filters, Fourier basis noise.
"""

from __future__ import annotations

from collections.abc import Callable

from shards.arms.base import Arm, Options, number
from shards.arms.cifar10c_files import STORED, StoredArm, StoredImages
from shards.arms.corruptions import CORRUPTIONS, SEVERITIES
from shards.arms.frequency import BANDS, BandNoise, FourierNoise, Pass
from shards.arms.ops import ColorJitter, NormalisedNoise
from shards.support.registry import split_spec

Entry = Callable[[str, str], Arm]
SPREAD = "standard deviations of the data"
SHARE = "shares of the pictures' Nyquist frequency"
REACH = 100  # largest frequency in shares of the pictures' own


def severity_of(spec: str, text: str) -> int:
    """1 to 5; 3 where nothing is said. Raises: ValueError."""
    if text not in ("", *map(str, SEVERITIES)):
        raise ValueError(f"arm `{spec}`: severity `{text}` must be a whole number from 1 to 5")
    return int(text or 3)


def _corruption(name: str) -> Entry:
    def entry(spec: str, strength: str) -> Arm:
        severity = severity_of(spec, strength)
        about: Options = {"severity": severity, "unit": "CIFAR-10-C severity, 1 to 5"}
        if name == "procedural_frost":
            about["texture"] = "made by a formula; CIFAR-10-C's are photographs"
        ops = (CORRUPTIONS[name](severity),)
        return Arm(f"{name}:{severity}", f"corruption/{name}/{severity}", ops, about)

    what = name.replace("_", " ")
    if name == "procedural_frost":
        what = "a made frost texture instead of photographs"
    entry.__doc__ = f"{name}[:SEVERITY]: CIFAR-10-C's {what}, severity 1 to 5 (default 3)"
    if name == "procedural_frost":
        entry.__doc__ = f"{name}[:SEVERITY]: {what}, mixed as CIFAR-10-C's frost (default 3)"
    return entry


def _stored(spec: str, argument: str) -> Arm:
    """stored[:NAME:SEVERITY]: CIFAR-10-C's own images from DISTIL_DATA/CIFAR-10-C (fog:3)"""
    name, strength = split_spec(argument or "fog:3")
    _ = STORED[name]
    severity = severity_of(spec, strength)
    about: Options = {"severity": severity, "unit": "CIFAR-10-C severity, 1 to 5"}
    about["file"] = f"CIFAR-10-C/{name}.npy"
    ops = (StoredImages(name, severity),)
    return StoredArm(f"stored:{name}:{severity}", f"stored/{name}/{severity}", ops, about)


def _band_noise(spec: str, argument: str) -> Arm:
    """band_noise[:BAND:SIGMA]: noise of one of 8 bands of frequency, after normalisation (4:0.1)"""
    band, strength = split_spec(argument or "4")
    if band not in map(str, range(1, BANDS + 1)):
        raise ValueError(f"arm `{spec}`: band `{band}` must be a whole number from 1 to {BANDS}")
    sigma = number(spec, strength, 0.1, 0, 10)
    about: Options = {"band": int(band), "sigma": sigma, "space": "normalised", "unit": SPREAD}
    about["bands"] = "1-4 evenly below the pictures' Nyquist frequency, 5-8 evenly above"
    ops = (BandNoise(int(band), sigma),)
    return Arm(f"band_noise:{band}:{sigma:g}", f"band_noise/{sigma:g}/{band}", ops, about)


def _low_pass(spec: str, strength: str) -> Arm:
    """low_pass[:CUTOFF]: frequencies below CUTOFF (default 0.5) times the pictures' Nyquist"""
    cutoff = number(spec, strength, 0.5, 0, REACH, above=True)
    about: Options = {"cutoff": cutoff, "space": "normalised", "unit": SHARE}
    return Arm(f"low_pass:{cutoff:g}", f"low_pass/{cutoff:g}", (Pass("low", cutoff),), about)


def _high_pass(spec: str, strength: str) -> Arm:
    """high_pass[:CUTOFF]: frequencies from CUTOFF (default 0.5) times the pictures' Nyquist on"""
    cutoff = number(spec, strength, 0.5, 0, REACH)
    about: Options = {"cutoff": cutoff, "space": "normalised", "unit": SHARE}
    return Arm(f"high_pass:{cutoff:g}", f"high_pass/{cutoff:g}", (Pass("high", cutoff),), about)


def _fourier(spec: str, argument: str) -> Arm:
    """fourier[:DOWN:ACROSS:SIGMA]: one wave of noise, in shares of Nyquist (0.5:0.5:0.5)"""
    parts = argument.split(":") if argument else ["0.5", "0.5"]
    if len(parts) not in (2, 3):
        raise ValueError(f"arm `{spec}`: write fourier:DOWN:ACROSS or fourier:DOWN:ACROSS:SIGMA")
    down, across = (_signed(spec, text) for text in parts[:2])
    sigma = number(spec, parts[2] if len(parts) == 3 else "", 0.5, 0, 10)
    about: Options = {"down": down, "across": across, "sigma": sigma, "space": "normalised"}
    about["unit"] = f"sigma: {SPREAD}; down, across: {SHARE}"
    place = f"{down:g}:{across:g}:{sigma:g}"
    ops = (FourierNoise(down, across, sigma),)
    return Arm(f"fourier:{place}", f"fourier/{place.replace(':', '/')}", ops, about)


def _signed(spec: str, text: str) -> float:
    minus = text.startswith("-")
    value = number(spec, text[minus:] or "nothing", 0, 0, REACH)
    return -value if minus and value else value


CORRUPT_ARMS: dict[str, Entry] = {
    **{name: _corruption(name) for name in CORRUPTIONS},
    "stored": _stored,
    "band_noise": _band_noise,
    "low_pass": _low_pass,
    "high_pass": _high_pass,
    "fourier": _fourier,
}


def corruptions_in(arm: Arm) -> frozenset[str]:
    """Names of the corruptions that somebody trained on `arm` has seen, at whatever severity.

    Gaussian noise in any space is gaussian_noise, frost is frost whatever its texture; a colour
    jitter holds brightness and contrast.
    """
    kinds = {type(CORRUPTIONS[n](1)): n.removeprefix("procedural_") for n in CORRUPTIONS}
    kinds[NormalisedNoise] = "gaussian_noise"
    seen = {kinds[type(op)] for op in arm.ops if type(op) in kinds}
    if any(isinstance(op, ColorJitter) for op in arm.ops):
        seen |= {"brightness", "contrast"}
    seen |= {op.name for op in arm.ops if isinstance(op, StoredImages)}
    return frozenset(seen)
