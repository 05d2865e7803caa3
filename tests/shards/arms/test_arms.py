from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from shards.arms import ARMS, make_arm, view_of, view_offsets
from shards.support.rng import NORMAL_BITS, normal_fixed

KEYS = tuple(f"digit/{i:04d}" for i in range(40))


@pytest.fixture(
    params=sorted(set(ARMS) - {"stored"})
)  # tests/shards/arms/test_cifar10c_files.py has that one
def arm(request: pytest.FixtureRequest):
    return make_arm(request.param)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_spec_is_canonical_and_metric_names_differ(arm) -> None:
    assert make_arm(arm.spec) == arm
    assert len({make_arm(name).metric for name in ARMS}) == len(ARMS)


def test_draw_depends_on_seed_key_and_view_alone(arm) -> None:
    together = arm.draw(3, KEYS, 4)
    assert together.shape == (40, 4, len(arm.columns))
    assert together.dtype == np.int64
    assert np.array_equal(arm.draw(3, KEYS[::-1], 4)[::-1], together)
    assert np.array_equal(arm.draw(3, KEYS, 9)[:, :4], together)
    for i in (0, 17, 39):
        assert np.array_equal(arm.draw(3, (KEYS[i],), 4)[0], together[i])


def test_draws_differ_between_seeds_keys_and_views(arm) -> None:
    drawn = arm.draw(3, KEYS, 4)
    if arm.stochastic:
        assert not np.array_equal(arm.draw(4, KEYS, 4), drawn)
        assert len(np.unique(drawn.reshape(160, -1), axis=0)) > 20
        assert (drawn[:, 0] != drawn[:, 1]).any()
    else:
        assert drawn.size == 0


def test_two_arms_draw_from_different_streams() -> None:
    assert (make_arm("noise:0.1").draw(0, KEYS, 2) != make_arm("noise:0.2").draw(0, KEYS, 2)).all()


def test_the_memory_format_changes_no_pixel(arm, images) -> None:
    """Operations, also those of plugins, get images that they may view as rows."""
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    last = images.contiguous(memory_format=torch.channels_last)
    seen: list[bool] = []

    class Watch:
        columns = ()

        def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
            seen.append(images_BCHW.is_contiguous())
            return images_BCHW

    assert torch.equal(arm.pixels(last, params), arm.pixels(images, params))
    replace(arm, ops=(Watch(), *arm.ops)).pixels(last, params)
    assert seen == [True]


def test_pixels_keep_shape_and_dtype_and_leave_their_input(arm, images) -> None:
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    before = images.clone()
    out = arm.pixels(images, params)
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert arm.pixels(images[:0], params[:0]).shape == (0, 3, 32, 32)


def test_a_batch_equals_one_by_one(arm, images) -> None:
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    floats = images.float() / 255
    pixels, normalised = arm.pixels(images, params), arm.normalised(floats, params)
    for i in range(len(KEYS)):
        at = slice(i, i + 1)
        assert torch.equal(arm.pixels(images[at], params[at]), pixels[at])
        assert torch.equal(arm.normalised(floats[at], params[at]), normalised[at])


def test_unused_parameter_columns_are_ignored(arm, images) -> None:
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    wide = torch.cat([params, torch.full((40, 2), 77)], dim=1)
    assert torch.equal(arm.pixels(images, wide), arm.pixels(images, params))


def test_crop_flip_golden_draw() -> None:
    drawn = make_arm("crop_flip").draw(0, ("digit/0000", "digit/0001"), 2)
    assert drawn.tolist() == [[[2, 1, 0], [5, 8, 1]], [[6, 3, 0], [7, 7, 0]]]


TWO = ("digit/0000", "digit/0001")
GOLDEN = {  # draws of two samples with seed 7; the second row of each channel of each image
    "crop_flip:2": (
        [[2, 2, 0], [0, 4, 1]],
        (
            "148 185 222 3 228 9 46 83 52 89 126 163",
            "0 0 0 0 0 0 0 0 0 0 0 0",
        ),
    ),
    "noise:0.1": (
        [[5730040174470337605], [-425649047546089640]],
        (
            "153 174 255 46 225 2 26 83 40 96 102 168",
            "163 177 235 237 182 212 58 75 24 53 139 184",
        ),
    ),
    "noise_normalised:0.1": (
        [[3175348511855897467], [842926408968484492]],
        (
            "148 185 222 3 228 9 46 83 52 89 126 163",
            "132 169 206 243 212 249 30 67 36 73 110 147",
        ),
    ),
    "noise_denoise:0.1": (
        [[-2970872882245898598], [-5194656721433203003]],
        (
            "119 199 234 30 218 39 31 78 97 60 91 183",
            "114 171 211 255 234 245 15 12 72 102 77 143",
        ),
    ),
    "crop_flip_noise:0.1": (
        [[3, 0, 1, 5103215107032733838], [6, 1, 0, 7532375211952131173]],
        (
            "29 0 24 37 24 0 7 30 42 0 11 0",
            "10 0 38 163 0 4 5 255 0 0 17 48",
        ),
    ),
    "color_jitter:0.4": (
        [[4977, 2814, 5147, 83], [5618, 4260, 3230, -25]],
        (
            "98 222 245 87 241 44 74 96 97 48 84 222",
            "210 251 216 223 239 245 53 103 76 126 161 206",
        ),
    ),
    "random_resized_crop:0.25": (
        [
            [728310026, 334742086, 267601937, 3095076765],
            [3466273721, 1916925596, 2876768201, 82187966],
        ],
        (
            "167 136 75 44 87 96 115 124 167 152 123 108",
            "132 169 206 243 212 249 30 67 36 73 110 147",
        ),
    ),
}


@pytest.mark.parametrize("spec", GOLDEN)
def test_draws_and_pixels_that_banks_hang_on_never_change(spec: str) -> None:
    draws, rows = GOLDEN[spec]
    arm = make_arm(spec)
    drawn = arm.draw(7, TWO, 1)[:, 0]
    assert drawn.tolist() == draws
    images = (torch.arange(96) * 37 % 256).to(torch.uint8).view(2, 3, 4, 4)
    out = arm.pixels(images, torch.from_numpy(drawn))[:, :, 1].flatten(1)
    assert tuple(" ".join(map(str, row)) for row in out.tolist()) == rows


@pytest.mark.parametrize(
    ("spec", "metric", "columns", "options"),
    [
        ("clean", "clean", (), {}),
        ("crop_flip:4", "crop_flip/4", ("top", "left", "flip"), {"pad": 4}),
        (
            "noise:0.1",
            "noise/pixel/0.1",
            ("noise_seed",),
            {"sigma": 0.1, "space": "pixel", "unit": "[0, 1] pixels", "clipped": True},
        ),
        (
            "noise_normalised:0.1",
            "noise/paper/0.1",
            ("noise_seed",),
            {"sigma": 0.1, "space": "normalised", "unit": "standard deviations of the data"},
        ),
    ],
)
def test_what_a_manifest_records_never_changes(spec, metric, columns, options) -> None:
    arm = make_arm(spec)
    assert (arm.spec, arm.metric, arm.columns, arm.options) == (spec, metric, columns, options)


def test_noise_normalised_golden_variates() -> None:
    arm = make_arm("noise_normalised:0.1")
    params = torch.from_numpy(arm.draw(7, TWO, 1)[:, 0])
    assert arm.normalised(torch.zeros(2, 3, 4, 4), params)[:, 0, 0].flatten().tolist() == [
        *(-0.03525390848517418, -0.02727050893008709, 0.04731445387005806, 0.0004150390741415322),
        *(-0.17138671875, -0.17236328125, 0.0145263671875, -0.02590331993997097),
    ]


def test_crop_flip_equals_numpy(images) -> None:
    arm = make_arm("crop_flip:4")
    params = arm.draw(1, KEYS, 1)[:, 0]
    out = arm.pixels(images, torch.from_numpy(params)).numpy()
    assert set(params[:, 2]) == {0, 1}
    for i, (top, left, flip) in enumerate(params):
        padded = np.pad(images[i].numpy(), ((0, 0), (4, 4), (4, 4)))
        crop = padded[:, top : top + 32, left : left + 32]
        assert np.array_equal(out[i], crop[:, :, ::-1] if flip else crop)


def test_flips_are_half_and_crops_cover_all_offsets() -> None:
    keys = tuple(map(str, range(5000)))
    drawn = make_arm("crop_flip").draw(0, keys, 1)[:, 0]
    assert abs(drawn[:, 2].mean() - 0.5) < 0.03
    seen = Counter(map(tuple, drawn[:, :2].tolist()))
    assert set(seen) == {(top, left) for top in range(9) for left in range(9)}
    expected = 5000 / 81
    assert sum((n - expected) ** 2 / expected for n in seen.values()) < 125  # chi2(80), p < 1e-3


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_has_its_sigma_in_unit_pixels(sigma: float) -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    arm = make_arm(f"noise:{sigma}")
    out = arm.pixels(grey, torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0]))
    change = (out.double() - 128) / 255
    assert change.std() == pytest.approx(sigma, rel=0.02)
    assert abs(change.mean()) < 0.01 * sigma + 0.5 / 255 / 100


def test_noise_golden_pixels() -> None:
    arm = make_arm("noise:0.1")
    assert arm.draw(0, ("a", "b"), 1).tolist() == [[[2684747473754160987]], [[1777019662628481082]]]
    grey = torch.full((2, 3, 2, 2), 100, dtype=torch.uint8)
    assert arm.pixels(grey, torch.tensor([[1], [-7]])).flatten(1).tolist() == [
        [91, 102, 77, 104, 136, 93, 103, 117, 89, 153, 109, 148],
        [75, 84, 67, 95, 105, 116, 144, 99, 49, 125, 83, 134],
    ]


@pytest.mark.parametrize("sigma", [0.013, 0.33, 0.77])
def test_integer_noise_rounds_as_real_numbers_would(sigma: float, images) -> None:
    arm = make_arm(f"noise:{sigma}")
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    normal = normal_fixed(params[:, 0], 3072).view(images.shape).double() / (1 << NORMAL_BITS)
    real = (images + normal * sigma * 255 + 0.5).floor().clamp(0, 255)
    assert (arm.pixels(images, params) == real).double().mean() > 0.99


def test_noise_is_clipped_not_wrapped() -> None:
    arm = make_arm("noise:1")
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    for level in (0, 255):
        flat = torch.full((40, 3, 32, 32), level, dtype=torch.uint8)
        share = (arm.pixels(flat, params) == level).double().mean()
        assert share == pytest.approx(0.5, abs=0.01)


def test_noise_of_strength_0_changes_nothing(images) -> None:
    arm = make_arm("noise:0")
    assert torch.equal(arm.pixels(images, torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])), images)


def test_noise_normalised_leaves_pixels_and_adds_sigma_after_normalisation(images) -> None:
    arm = make_arm("noise_normalised:0.3")
    params = torch.from_numpy(arm.draw(0, KEYS, 1)[:, 0])
    assert torch.equal(arm.pixels(images, params), images)
    zeros = torch.zeros(40, 3, 32, 32)
    added = arm.normalised(zeros, params)
    assert added.std() == pytest.approx(0.3, rel=0.02)
    assert torch.allclose(arm.normalised(zeros + 5, params), added + 5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("nois", ("unknown arm `nois`", "did you mean `noise`")),
        ("noise:abc", ("noise:abc", "[0, 1]")),
        ("noise:-1", ("noise:-1", "[0, 1]")),
        ("noise:1.01", ("1.01", "[0, 1]")),
        ("noise:nan", ("nan", "[0, 1]")),
        ("noise:inf", ("inf", "[0, 1]")),
        ("clean:1", ("clean:1", "takes no option")),
        ("crop_flip:2.5", ("crop_flip:2.5", "whole number of pixels")),
        ("crop_flip:0", ("crop_flip:0", "from 1 to 64")),
        ("", ("unknown arm", "valid: band_noise")),
    ],
)
def test_bad_specs_are_refused(spec: str, parts: tuple[str, ...], refused) -> None:
    refused(lambda: make_arm(spec), *parts)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("noise", "noise:0.1"),
        ("noise:1e-1", "noise:0.1"),
        ("noise:-0", "noise:0"),
        ("noise:0.12345678", "noise:0.123457"),
        ("crop_flip:4.0", "crop_flip:4"),
    ],
)
def test_spellings_of_one_arm_are_one_arm(spec: str, canonical: str) -> None:
    assert make_arm(spec) == make_arm(canonical)
    assert make_arm(spec).spec == canonical


def test_every_sample_shows_every_view_once_in_k_epochs() -> None:
    offsets = view_offsets(KEYS, 8)
    shown = torch.stack([view_of(epoch, offsets, 8) for epoch in range(8)], dim=1)
    assert torch.equal(shown.sort(dim=1).values, torch.arange(8).expand(40, 8))
    assert len(offsets.unique()) == 8
    assert torch.equal(view_offsets(KEYS[::-1], 8).flip(0), offsets)
