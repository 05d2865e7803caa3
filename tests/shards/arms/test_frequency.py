"""Noise and filters by frequency: energies and supports, measured by another transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shards.arms import make_arm
from shards.arms.frequency import BANDS, CORNER, band_edges, radii
from shards.teachers.preprocess import Preprocess

KEYS = tuple(f"digit/{i:04d}" for i in range(4))
NATIVE = 0.5
ENLARGED = 0.5 * 32 / 224


def apply(spec: str, images: torch.Tensor, nyquist: float = NATIVE, seed: int = 0) -> torch.Tensor:
    arm = make_arm(spec)
    params = torch.from_numpy(arm.draw(seed, KEYS[: len(images)], 1)[:, 0])
    return arm.normalised(images, params, nyquist=nyquist)


def power(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """|FFT|^2 summed over channels (N, H, W), and the radius of each coefficient."""
    found = np.abs(np.fft.fft2(images.double().numpy())) ** 2
    down, across = (np.fft.fftfreq(side) for side in images.shape[-2:])
    return found.sum(axis=1), np.hypot(down[:, None], across)


@pytest.mark.parametrize(("side", "nyquist"), [(8, 0.5), (32, 0.5), (64, 0.25), (224, ENLARGED)])
def test_bands_have_equal_energy_and_nothing_outside(side: int, nyquist: float) -> None:
    zeros = torch.zeros(2, 3, side, side)
    edges = [nyquist * i / 4 for i in range(4)]
    edges += [nyquist + (np.sqrt(0.5) - nyquist) * i / 4 for i in range(4)] + [np.inf]
    assert edges[4] == nyquist
    assert band_edges(nyquist) == pytest.approx(edges)
    for band in range(1, BANDS + 1):
        noise = apply(f"band_noise:{band}:0.3", zeros, nyquist)
        assert noise.dtype == torch.float32
        energy = noise.double().square().mean(dim=(1, 2, 3))
        assert energy.tolist() == pytest.approx([0.09, 0.09], rel=1e-5)
        spectrum, radius = power(noise)
        inside = (radius >= edges[band - 1]) & (radius < edges[band])
        assert spectrum[:, ~inside].sum() < 1e-9 * spectrum.sum()


def test_bands_split_all_frequencies() -> None:
    masks = [
        (radii(32, 32) >= low) & (radii(32, 32) < high)
        for low, high in zip(band_edges(0.2), band_edges(0.2)[1:], strict=False)
    ]
    assert torch.stack(masks).sum(dim=0).unique().tolist() == [1]
    assert radii(32, 32).max() == pytest.approx(CORNER)


@pytest.mark.parametrize("spec", ["band_noise:2:0.2", "fourier:0.5:0.25:0.2", "noise_normalised"])
def test_noise_is_added_whatever_the_image(spec: str) -> None:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    added = apply(spec, torch.zeros_like(images))
    assert torch.allclose(apply(spec, images), images + added, atol=1e-6)
    assert not torch.equal(added[0], added[1])
    assert not torch.equal(added, apply(spec, torch.zeros_like(images), seed=1))


def test_of_no_strength_they_change_nothing() -> None:
    images = torch.randn(2, 3, 16, 16)
    for spec in ("band_noise:3:0", "fourier:0.5:0.5:0", "noise_normalised:0", "high_pass:0"):
        assert torch.allclose(apply(spec, images), images, atol=1e-6)
    assert torch.allclose(apply("low_pass:2", images), images, atol=1e-6)


@pytest.mark.parametrize("cutoff", [0.125, 0.5, 1])
@pytest.mark.parametrize(("side", "nyquist"), [(8, 0.5), (33, 0.5), (64, 0.25)])
def test_low_and_high_pass_are_parts_of_the_image(cutoff, side, nyquist) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    low = apply(f"low_pass:{cutoff}", images, nyquist)
    high = apply(f"high_pass:{cutoff}", images, nyquist)
    assert torch.allclose(low + high, images, atol=1e-5)
    whole, radius = power(images)
    for part, inside in ((low, radius < cutoff * nyquist), (high, radius >= cutoff * nyquist)):
        spectrum, _ = power(part)
        assert np.allclose(spectrum[:, inside], whole[:, inside], rtol=1e-3, atol=1e-3)
        assert spectrum[:, ~inside].sum() < 1e-9 * whole.sum()
    assert high.mean(dim=(2, 3)).abs().max() < 1e-6


def test_a_wave_is_one_pair_of_coefficients_in_every_channel() -> None:
    wave = apply("fourier:0.25:-0.5:0.4", torch.zeros(4, 3, 32, 32))
    spectrum, _ = power(wave)
    rows, cols = np.nonzero(spectrum[0] > 1e-6 * spectrum[0].max())
    assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == {(4, 24), (28, 8)}
    assert wave.square().mean(dim=(2, 3)).flatten().tolist() == pytest.approx([0.16] * 12)
    signs = (wave / wave[0, 0]).mean(dim=(2, 3)).round(decimals=4)
    assert set(signs.flatten().tolist()) == {-1, 1}


@pytest.mark.parametrize("spec", ["fourier:0:0:0.3", "fourier:1:1:0.3", "fourier:1:0:0.3"])
@pytest.mark.parametrize("side", [8, 32])
def test_waves_at_the_ends_have_their_energy(spec: str, side: int) -> None:
    wave = apply(spec, torch.zeros(1, 3, side, side))
    assert float(wave.square().mean()) == pytest.approx(0.09)
    values = wave[0, 0].abs().unique()
    assert values.max() - values.min() < 1e-6  # a constant, or plus and minus it


def test_the_pictures_nyquist_frequency() -> None:
    mean = std = (0.5, 0.5, 0.5)
    clip = Preprocess(size=224, mean=mean, std=std)
    assert clip.nyquist(32) == ENLARGED
    assert clip.nyquist(500) == 0.5
    assert clip.native(32).nyquist(32) == 0.5
    cropped = Preprocess(size=224, resize=256, mean=mean, std=std)
    assert cropped.nyquist(32) == 0.5 * 32 / 256


def test_an_enlarged_picture_lies_below_its_nyquist_frequency(photographs) -> None:
    clip = Preprocess(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images = clip(photographs[:2])
    images = images - images.mean(dim=(2, 3), keepdim=True)
    kept = apply("low_pass:1.41", images, clip.nyquist(32))
    assert kept.square().sum() > 0.98 * images.square().sum()
    noise = apply("noise_normalised:0.1", torch.zeros_like(images))
    kept = apply("low_pass:1", noise, clip.nyquist(32))
    assert kept.square().sum() < 0.03 * noise.square().sum()


def can_show(spec: str, side: int, nyquist: float = NATIVE) -> bool:
    try:
        make_arm(spec).check_input(side, nyquist)
    except ValueError:
        return False
    return True


def test_sizes_at_which_a_band_is_empty_are_known_beforehand() -> None:
    bands = [f"band_noise:{band}" for band in range(1, BANDS + 1)]
    lacking = {side for side in range(4, 65) if not all(can_show(b, side) for b in bands)}
    assert lacking == {4, 5, 6, 7, 9, 11, 13}
    assert all(can_show(band, 224, ENLARGED) for band in bands)


@pytest.mark.parametrize(("side", "nyquist"), [(8, 0.5), (9, 0.5), (32, 0.5), (64, 0.25)])
def test_waves_that_repeat_a_lower_one_are_known_beforehand(side: int, nyquist: float) -> None:
    zeros, shown = torch.zeros(1, 1, side, side), []
    for cycles in range(side + 1):
        share = cycles / (nyquist * side)
        wave = apply(f"fourier:{share}:0", zeros, nyquist)
        repeated = any(torch.allclose(s * w, wave, atol=1e-5) for w in shown for s in (1, -1))
        assert can_show(f"fourier:{share}:0", side, nyquist) != repeated, cycles
        assert can_show(f"fourier:0:-{share}", side, nyquist) != repeated
        shown += [] if repeated else [wave]
    assert can_show("fourier:1:1", side, nyquist)
    assert not can_show("fourier:100:0", side, nyquist)


def test_a_band_without_frequencies_is_refused(refused) -> None:
    refused(lambda: apply("band_noise:2", torch.zeros(1, 3, 3, 3)), "band_noise:2", "3x3", "choose")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("band_noise:0", ("band `0`", "1 to 8")),
        ("band_noise:9", ("band `9`", "1 to 8")),
        ("band_noise:2:-1", ("-1", "[0, 10]")),
        ("low_pass:0", ("(0, 100]",)),
        ("low_pass:nan", ("(0, 100]",)),
        ("high_pass:-1", ("[0, 100]",)),
        ("fourier:1", ("fourier:DOWN:ACROSS",)),
        ("fourier:1:x", ("`x`", "[0, 100]")),
        ("fourier:-:1", ("fourier:-:1", "[0, 100]")),
        ("fourier:1:1:1:1", ("fourier:DOWN:ACROSS:SIGMA",)),
    ],
)
def test_bad_spellings_are_refused(spec: str, parts: tuple[str, ...], refused) -> None:
    refused(lambda: make_arm(spec), *parts)


@pytest.mark.parametrize(
    ("spec", "canonical", "metric"),
    [
        ("band_noise", "band_noise:4:0.1", "band_noise/0.1/4"),
        ("band_noise:7:0.20", "band_noise:7:0.2", "band_noise/0.2/7"),
        ("low_pass", "low_pass:0.5", "low_pass/0.5"),
        ("high_pass:0.50", "high_pass:0.5", "high_pass/0.5"),
        ("fourier", "fourier:0.5:0.5:0.5", "fourier/0.5/0.5/0.5"),
        ("fourier:-0:-0.250", "fourier:0:-0.25:0.5", "fourier/0/-0.25/0.5"),
    ],
)
def test_canonical_spellings(spec: str, canonical: str, metric: str) -> None:
    arm = make_arm(spec)
    assert (arm.spec, arm.metric) == (canonical, metric)
    assert make_arm(canonical) == arm
