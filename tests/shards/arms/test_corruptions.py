"""CIFAR-10-C's corruptions: against their definitions, at every size, the same in any batch."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from shards.arms import make_arm
from shards.arms.corruptions import CORRUPTIONS, SEVERITIES
from shards.arms.corruptions.blur import ANGLES
from shards.arms.corruptions.exact import mirror, nearest, scale_of, symmetric
from shards.arms.corruptions.weather import plasma
from shards.arms.ops import PixelNoise
from shards.support.rng import NORMAL_BITS, normal_fixed, uniform_fixed
from tests.shards import published

FEW = tuple(f"test/{i:06d}" for i in range(3))


def drawn(spec: str, keys: tuple[str, ...]) -> torch.Tensor:
    return torch.from_numpy(make_arm(spec).draw(0, keys, 1)[:, 0])


def corrupted(spec: str, images: torch.Tensor) -> torch.Tensor:
    return make_arm(spec).pixels(images, drawn(spec, keys_of(images)))


def keys_of(images: torch.Tensor) -> tuple[str, ...]:
    return tuple(f"test/{i:06d}" for i in range(len(images)))


def unit(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy() / 255


def uniform(seed: torch.Tensor, count: int) -> np.ndarray:
    """The generator's integers as numbers in (0, 1)."""
    return (uniform_fixed(seed.view(1), count)[0].numpy() + 0.5) / 65536


def constant(name: str, severity: int):
    return CORRUPTIONS[name](severity).constant


def degrees(step: torch.Tensor, low: float) -> float:
    return low + (int(step) + 0.5) / ANGLES * 90


def chances(name: str, c, params: torch.Tensor) -> tuple:
    """What is random in one image, as the published definitions take it."""
    makes = {
        "shot_noise": lambda: (uniform(params[0], 3072).reshape(3, 32, 32).transpose(1, 2, 0),),
        "glass_blur": lambda: (
            np.floor(uniform(params[0], c[2] * 2048) * 2 * c[1])
            .astype(int)
            .reshape(c[2], 2, 32, 32)
            - c[1],
        ),
        "fog": lambda: (2 * uniform(params[0], 1024) - 1,),
        "elastic_transform": lambda: (
            2 * uniform(params[0], 6).reshape(3, 2) - 1,
            *(2 * uniform(seed, 1024).reshape(32, 32) - 1 for seed in params[1:]),
        ),
    }
    return makes.get(name, tuple)()


def expected(name: str, severity: int, x: np.ndarray, params: torch.Tensor) -> np.ndarray:
    """One image by its published definition, with this project's draws."""
    c = constant(name, severity)
    if name == "motion_blur":
        return published.motion_blur(x, *c, degrees(params[0], -45))
    if name == "zoom_blur":
        return published.zoom_blur(x, np.arange(1, c, 0.01))
    if name == "snow":
        normal = normal_fixed(params[:1], 1024)[0].view(32, 32).numpy() / (1 << NORMAL_BITS)
        return published.snow(x, normal, degrees(params[1], -135), c)
    given = c if isinstance(c, tuple) else (c,)
    return getattr(published, name)(x, *chances(name, c, params), *given)


# Levels beyond rounding between exact arithmetic and definition: (most, mean over pixels).
CLOSE = {
    "shot_noise": (1e-9, 1e-9),
    "defocus_blur": (0.01, 1e-3),
    "glass_blur": (0.5, 0.01),
    "motion_blur": (0.01, 1e-3),
    "zoom_blur": (0.01, 1e-3),
    "fog": (0.01, 1e-3),
    "snow": (1, 0.01),
    "brightness": (0.01, 1e-3),
    "contrast": (0.01, 1e-3),
    "elastic_transform": (3, 0.05),  # positions in 1/256 of a pixel
}


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", CLOSE)
def test_they_are_what_was_published(name: str, severity: int, photographs) -> None:
    spec, images = f"{name}:{severity}", photographs[:3]
    ours, params = corrupted(spec, images), drawn(spec, FEW)
    theirs = np.stack(
        [expected(name, severity, x, p) for x, p in zip(unit(images), params, strict=True)]
    )
    apart = np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs * 255) - 0.5  # rounding is right
    assert apart.max() <= CLOSE[name][0]
    assert np.maximum(apart, 0).mean() <= CLOSE[name][1]
    assert (ours != images).double().mean() > (0.1 if name != "contrast" else 0.5)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [8, 32, 64])
def test_jpeg_and_pixelate_are_pillows(severity: int, side: int, photographs) -> None:
    images = torch.nn.functional.interpolate(photographs[:4], (side, side))
    encoded = corrupted(f"jpeg_compression:{severity}", images)
    coarse = corrupted(f"pixelate:{severity}", images)
    quality, share = constant("jpeg_compression", severity), constant("pixelate", severity)
    for image, ours, blocky in zip(images, encoded, coarse, strict=True):
        picture, buffer = Image.fromarray(image.permute(1, 2, 0).numpy()), io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        assert np.array_equal(ours.permute(1, 2, 0), np.asarray(Image.open(buffer)))
        small = (int(side * share),) * 2
        theirs = picture.resize(small, Image.Resampling.BOX).resize(
            (side, side), Image.Resampling.BOX
        )
        assert np.array_equal(blocky.permute(1, 2, 0), np.asarray(theirs))


def test_gaussian_noise_is_pixel_noise_of_the_published_sigma() -> None:
    for severity, sigma in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.1), strict=True):
        assert make_arm(f"gaussian_noise:{severity}").ops == (PixelNoise(sigma),)


@pytest.mark.parametrize(
    ("severity", "amount"), zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True)
)
def test_impulses_are_as_many_and_as_black_as_white(severity: int, amount: float) -> None:
    grey = torch.full((40, 3, 32, 32), 100, dtype=torch.uint8)
    out = corrupted(f"impulse_noise:{severity}", grey)
    count = out.numel()
    assert set(out.unique().tolist()) == {0, 100, 255}
    for level in (0, 255):
        found = int((out == level).sum())
        assert abs(found - count * amount / 2) < 4 * (count * amount / 2) ** 0.5


def test_shot_noise_has_the_pixels_mean_and_variance() -> None:
    grey = torch.full((40, 3, 32, 32), 51, dtype=torch.uint8)
    for severity, rate in zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        out = corrupted(f"shot_noise:{severity}", grey).double() / 255
        assert out.mean() == pytest.approx(0.2, abs=1e-3)
        assert out.var() == pytest.approx(0.2 / rate, rel=0.06)  # levels are rounded
    black = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(corrupted("shot_noise:5", black), black)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 32, 64])
def test_every_batch_gives_the_same_bits_and_each_severity_others(name, side, photographs) -> None:
    images = torch.nn.functional.interpolate(photographs[:5], (side, side))
    seen = []
    for severity in SEVERITIES:
        spec = f"{name}:{severity}"
        params = drawn(spec, keys_of(images))
        out = make_arm(spec).pixels(images, params)
        assert (out.shape, out.dtype) == (images.shape, torch.uint8)
        one = [make_arm(spec).pixels(images[i : i + 1], params[i : i + 1]) for i in range(5)]
        assert torch.equal(torch.cat(one), out)
        seen.append(out)
    assert all((out != images).any() for out in seen[1:])  # a zoom of 1.05 leaves 8 pixels alone
    least = 3 if side == 8 else 5
    assert len({tuple(out.flatten().tolist()) for out in seen}) >= least


# Over the photographs, the mean change grows from severity 1 to 5.
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"elastic_transform"}))
def test_severity_5_changes_more_than_severity_1(name: str, photographs) -> None:
    mild, hard = (
        (corrupted(f"{name}:{severity}", photographs).double() - photographs).abs().mean()
        for severity in (1, 5)
    )
    assert hard > 1.25 * mild


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "glass_blur", "zoom_blur"])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_blurs_leave_a_flat_picture(name: str, level: int) -> None:
    for side in (8, 33):
        flat = torch.full((2, 3, side, side), level, dtype=torch.uint8)
        for severity in SEVERITIES:
            assert torch.equal(corrupted(f"{name}:{severity}", flat), flat)


def test_brightness_and_contrast_in_closed_form() -> None:
    colour = torch.tensor([100, 50, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert corrupted("brightness:4", colour).flatten().tolist() == [151, 76, 0]
    black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert corrupted("brightness:2", black).unique().tolist() == [26]
    halves = torch.tensor([40, 200], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 2, 2)
    assert corrupted("contrast:2", halves)[0, 0, 0].tolist() == [80, 160]
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(corrupted("brightness:3", white), white)


def test_fog_whitens_and_keeps_the_brightest_level() -> None:
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(corrupted("fog:5", black), black)  # by definition times its maximum
    picture = torch.full((2, 3, 32, 32), 60, dtype=torch.uint8)
    assert corrupted("fog:5", picture).amax() <= 60


def test_plasma_spans_its_range_at_every_size() -> None:
    for side in (1, 7, 8, 32, 100):
        cloud = plasma(torch.tensor([1, 2]), side, 2.0)
        assert cloud.amin(dim=(1, 2)).tolist() == [0, 0]
        assert cloud.amax(dim=(1, 2)).tolist() == [65536, 65536]
        assert cloud.shape[1] >= side
        assert not torch.equal(cloud[0], cloud[1])


def test_frost_says_that_it_is_made() -> None:
    arm = make_arm("procedural_frost:5")
    assert "formula" in str(arm.options["texture"])
    black = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    frost = corrupted("procedural_frost:5", black).double()
    assert frost.amin() >= 64 * 0.45 * 0.92 - 1
    assert frost.amax() <= 255 * 0.45 + 1
    assert frost.std(dim=(2, 3)).min() > 2  # it has a texture
    assert (frost[:, 2] >= frost[:, 0]).all()  # bluish


def test_lengths_grow_with_the_picture_and_never_shrink() -> None:
    assert [scale_of(s, s) for s in (8, 32, 64, 224)] == [1, 1, 2, 7]
    assert scale_of(32, 100) == 1


@pytest.mark.parametrize(("edge", "mode"), [(mirror, "reflect"), (symmetric, "symmetric")])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_edges_are_numpys_pad_modes(edge, mode: str, size: int) -> None:
    found = edge(torch.arange(-9, size + 9), size)
    assert found.tolist() == np.pad(np.arange(size), 9, mode=mode).tolist()
    assert (
        nearest(torch.arange(-2, size + 2), size).tolist()
        == np.pad(np.arange(size), 2, mode="edge").tolist()
    )


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize("severity", ["0", "6", "-1", "2.5", "red", "nan", " ", "1:2"])
def test_bad_severities_are_refused(name: str, severity: str, refused) -> None:
    refused(lambda: make_arm(f"{name}:{severity}"), f"{name}:{severity}", "from 1 to 5")


def test_corruptions_have_specs_metrics_and_views() -> None:
    assert make_arm("fog").spec == "fog:3"
    assert make_arm("fog:3").metric == "corruption/fog/3"
    assert make_arm("shot_noise:1").columns == ("noise_seed",)
    assert not make_arm("contrast:1").stochastic
    assert make_arm("contrast:1").views(5) == 1
    assert make_arm("fog:1").views(5) == 5
