"""Where in frequency embeddings break: noise by band, low and high passes, a Fourier heat map.

All of it acts after normalisation at the input's own resolution; frequencies are shares of the
pictures' own Nyquist frequency (`shards.arms.frequency`). Arms are those of `test_arms`, see the
groups `bands`, `low_passes`, `high_passes` and `fourier_map`.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.arms import make_arm
from shards.measures.corruption import Figures
from trainers.probes.features import FeatureBank
from trainers.probes.robustness import FREQUENCY, all_figures, family

Value = float | list[float]


def frequency(bank: FeatureBank) -> Iterator[tuple[str, Value]]:
    """Figures of each band and filter; for waves, arrays alone.

    fourier/SIGMA/accuracy and fourier/SIGMA/cosine are heat maps (Yin et al., NeurIPS 2019) as
    lists over the waves, whose frequencies are in fourier/SIGMA/down and fourier/SIGMA/across.
    """
    waves: dict[float, dict[str, Figures]] = {}
    for spec, figures in all_figures(bank, FREQUENCY, inside=True).items():
        arm = make_arm(spec)
        if family(spec) == "fourier":
            waves.setdefault(float(arm.options["sigma"]), {})[spec] = figures
            continue
        for figure, value in figures.items():
            yield f"{arm.metric}/{figure}", value
    for sigma, found in waves.items():
        for side in ("down", "across"):
            shares = [float(make_arm(spec).options[side]) for spec in found]
            yield f"fourier/{sigma:g}/{side}", shares
        for figure in ("accuracy", "cosine"):
            yield f"fourier/{sigma:g}/{figure}", [figures[figure] for figures in found.values()]
