"""Arms that are corruptions: students are measured under them, and may be trained on them.

`CORRUPT_ARMS` is part of `shards.arms.ARMS`: CIFAR-10-C's corruptions by severity, the published
CIFAR-10-C files, band-limited noise, low-pass and high-pass filters, Fourier basis noise.
"""

from __future__ import annotations

from shards.arms.base import Arm, Entry, Options, arm_entry
from shards.arms.cifar10c_files import STORED, StoredArm, StoredImages
from shards.arms.corruptions import CORRUPTIONS
from shards.arms.frequency import BANDS, BandNoise, FourierNoise, Pass
from shards.arms.ops import ColorJitter, NormalisedNoise
from shards.support.registry import split_spec
from shards.support.spec_options import Option, number

# Units as manifests record them. They are hashed into a bank's identity: a change of wording would
# make every existing bank another one.
SPREAD = "standard deviations of the data"
SHARE = "shares of the pictures' Nyquist frequency"
SEVERITY = Option("severity", 3, 1, 5, integer=True)
FROST = "procedural_frost"
REACH = 100  # largest frequency, in multiples of the images' Nyquist frequency


def _about(name: str) -> str:
    if name == FROST:
        return "frost with a computed texture instead of photographs"
    return f"CIFAR-10-C's {name.replace('_', ' ')}"


def _facts(name: str) -> Options:
    facts: Options = {"unit": "CIFAR-10-C severity, 1 to 5"}
    if name == FROST:
        facts["texture"] = "made by a formula; CIFAR-10-C's are photographs"
    return facts


def _stored(spec: str, argument: str) -> Arm:
    """stored[:NAME:SEVERITY]: published images in DISTIL_DATA/CIFAR-10-C (default fog:3)"""
    name, strength = split_spec(argument or "fog:3")
    _ = STORED[name]  # an unknown name raises, with the closest valid one
    severity = int(SEVERITY.parse(spec, strength))
    about: Options = {"severity": severity, "unit": "CIFAR-10-C severity, 1 to 5"}
    about["file"] = f"CIFAR-10-C/{name}.npy"
    ops = (StoredImages(name, severity),)
    return StoredArm(f"stored:{name}:{severity}", f"stored/{name}/{severity}", ops, about)


def _fourier(spec: str, argument: str) -> Arm:
    """fourier[:DOWN:ACROSS:SIGMA]: one Fourier basis image as noise (default 0.5:0.5:0.5)"""
    parts = argument.split(":") if argument else ["0.5", "0.5"]
    if len(parts) not in (2, 3):
        raise ValueError(f"arm `{spec}`: write fourier:DOWN:ACROSS or fourier:DOWN:ACROSS:SIGMA")
    down, across = (_signed(spec, text) for text in parts[:2])
    sigma = number(spec, parts[2] if len(parts) == 3 else "", 0.5, 0, 10)
    about: Options = {"down": down, "across": across, "sigma": sigma, "space": "normalised"}
    about["unit"] = f"sigma: {SPREAD}; down, across: {SHARE}"
    values = f"{down:g}:{across:g}:{sigma:g}"
    ops = (FourierNoise(down, across, sigma),)
    return Arm(f"fourier:{values}", f"fourier/{values.replace(':', '/')}", ops, about)


def _signed(spec: str, text: str) -> float:
    minus = text.startswith("-")
    value = number(spec, text[minus:] or "nothing", 0, 0, REACH)
    return -value if minus and value else value


CORRUPT_ARMS: dict[str, Entry] = {
    **{
        name: arm_entry(
            name,
            f"{_about(name)}, severity 1 to 5 (default 3)",
            lambda severity, make=CORRUPTIONS[name]: (make(severity),),
            SEVERITY,
            metric=f"corruption/{name}/{{severity}}",
            record=lambda severity, name=name: _facts(name),
        )
        for name in CORRUPTIONS
    },
    "stored": _stored,
    "band_noise": arm_entry(
        "band_noise",
        "noise in frequency band 1 to 8, after normalisation (default 4:0.1)",
        lambda band, sigma: (BandNoise(band, sigma),),
        Option("band", 4, 1, BANDS, integer=True),
        Option("sigma", 0.1, 0, 10),
        metric="band_noise/{sigma}/{band}",
        record=lambda band, sigma: {
            "space": "normalised",
            "unit": SPREAD,
            "bands": "1-4 evenly below the pictures' Nyquist frequency, 5-8 evenly above",
        },
    ),
    "low_pass": arm_entry(
        "low_pass",
        "keep frequencies below CUTOFF (default 0.5) x Nyquist of the images",
        lambda cutoff: (Pass("low", cutoff),),
        Option("cutoff", 0.5, 0, REACH, above=True),
        record=lambda cutoff: {"space": "normalised", "unit": SHARE},
    ),
    "high_pass": arm_entry(
        "high_pass",
        "keep frequencies of at least CUTOFF (default 0.5) x Nyquist of the images",
        lambda cutoff: (Pass("high", cutoff),),
        Option("cutoff", 0.5, 0, REACH),
        record=lambda cutoff: {"space": "normalised", "unit": SHARE},
    ),
    "fourier": _fourier,
}


def corruptions_in(arm: Arm) -> frozenset[str]:
    """Names of the CIFAR-10-C corruptions that a student trained on `arm` has seen.

    Severity does not matter. Gaussian noise in pixel or normalised space counts as gaussian_noise,
    procedural_frost as frost; colour jitter includes brightness and contrast. Robustness is
    reported with and without the corruptions that were seen in training.
    """
    kinds = {type(CORRUPTIONS[n](1)): n.removeprefix("procedural_") for n in CORRUPTIONS}
    kinds[NormalisedNoise] = "gaussian_noise"
    seen = {kinds[type(op)] for op in arm.ops if type(op) in kinds}
    if any(isinstance(op, ColorJitter) for op in arm.ops):
        seen |= {"brightness", "contrast"}
    seen |= {op.name for op in arm.ops if isinstance(op, StoredImages)}
    return frozenset(seen)
