"""Arms beyond crops and noise: what they draw and what they do to pixels."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from shards.arms import ARMS, describe_arms, make_arm
from shards.arms.corruptions import CORRUPTIONS
from shards.arms.ops import FACTOR_BITS, TURN, RandomResizedCrop

KEYS = tuple(f"digit/{i:04d}" for i in range(40))
MANY = tuple(map(str, range(4000)))
WITHOUT_FILES = sorted(
    set(ARMS) - {"stored"}
)  # tests/shards/arms/test_cifar10c_files.py has that one
WITH_NUMBERS = sorted(
    set(ARMS) - {"clean", "crop_flip", "stored", "band_noise", "fourier", *CORRUPTIONS}
)


def drawn(spec: str, keys: tuple[str, ...] = KEYS) -> torch.Tensor:
    return torch.from_numpy(make_arm(spec).draw(0, keys, 1)[:, 0])


def test_the_teacher_of_noise_denoise_sees_the_clean_image(photographs) -> None:
    arm = make_arm("noise_denoise:0.2")
    params = drawn("noise_denoise:0.2")
    student = arm.pixels(photographs, params)
    assert torch.equal(arm.pixels(photographs, params, viewer="teacher"), photographs)
    change = (student.double() - photographs)[(student > 0) & (student < 255)] / 255
    assert change.std() == pytest.approx(0.2, rel=0.25)  # clipped pixels are left out
    assert arm.options["teacher_sees"] == "clean"
    assert arm.stochastic
    assert arm.denoise


@pytest.mark.parametrize("name", sorted(set(WITHOUT_FILES) - {"noise_denoise"}))
def test_every_other_arm_shows_both_the_same(name: str, photographs) -> None:
    arm, params, floats = make_arm(name), drawn(name), photographs.float()
    assert torch.equal(
        arm.pixels(photographs, params, viewer="teacher"), arm.pixels(photographs, params)
    )
    assert torch.equal(arm.normalised(floats, params, "teacher"), arm.normalised(floats, params))
    assert not arm.denoise
    assert "teacher_sees" not in arm.options


def test_crop_flip_noise_is_crop_flip_and_then_noise(photographs) -> None:
    arm, params = make_arm("crop_flip_noise:0.1"), drawn("crop_flip_noise:0.1")
    assert arm.columns == ("top", "left", "flip", "noise_seed")
    moved = make_arm("crop_flip:4").pixels(photographs, params[:, :3])
    assert torch.equal(
        arm.pixels(photographs, params), make_arm("noise:0.1").pixels(moved, params[:, 3:])
    )


def test_jitter_factors_are_uniform_within_their_strength() -> None:
    params = drawn("color_jitter:0.4", MANY).double()
    factors = params[:, :3] / (1 << FACTOR_BITS)
    assert factors.min() >= 0.6 - 1e-3
    assert factors.max() <= 1.4 + 1e-3
    assert torch.allclose(factors.mean(dim=0), torch.ones(3).double(), atol=0.02)
    assert torch.allclose(factors.std(dim=0), torch.tensor(0.8 / 12**0.5).double(), rtol=0.05)
    assert torch.all(factors.amin(dim=0) < 0.605)
    assert torch.all(factors.amax(dim=0) > 1.395)
    hue = params[:, 3] / TURN
    assert (hue.min(), hue.max()) == (-102 / TURN, 102 / TURN)
    assert hue.abs().max() <= 0.1 + 1 / TURN
    assert hue.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)


def test_jitter_of_strength_0_changes_nothing(photographs) -> None:
    arm = make_arm("color_jitter:0")
    assert torch.equal(arm.pixels(photographs, drawn(arm.spec)), photographs)


def jitter(images: torch.Tensor, *params: int) -> torch.Tensor:
    return make_arm("color_jitter").pixels(images, torch.tensor([params] * len(images)))


ONE = 1 << FACTOR_BITS


@pytest.mark.parametrize(("index", "name"), [(0, "brightness"), (1, "contrast"), (2, "saturation")])
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_each_factor_is_torchvisions_within_two_levels(index, name, factor, photographs) -> None:
    from torchvision.transforms import functional

    params = [ONE, ONE, ONE, 0]
    params[index] = round(factor * ONE)
    theirs = getattr(functional, f"adjust_{name}")(photographs, factor)
    apart = (jitter(photographs, *params).int() - theirs.int()).abs()
    assert apart.max() <= 2  # torchvision cuts fractions off, we round
    assert apart.float().mean() < 1.3


def test_hue_turns_red_through_green_and_blue_and_keeps_grey(photographs) -> None:
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1)
    third = jitter(red, ONE, ONE, ONE, TURN // 3).flatten()
    two_thirds = jitter(red, ONE, ONE, ONE, -TURN // 3).flatten()
    assert int(third.argmax()) == 1
    assert int(two_thirds.argmax()) == 2
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    assert torch.equal(jitter(grey, ONE, ONE, ONE, 77), grey)
    assert torch.equal(jitter(photographs, ONE, ONE, ONE, TURN), photographs)


@pytest.mark.parametrize("least", [0.08, 0.5, 1])
def test_crops_cover_the_area_and_aspect_asked_for(least: float) -> None:
    arm = make_arm(f"random_resized_crop:{least}")
    (op,) = arm.ops
    assert isinstance(op, RandomResizedCrop)
    top, left, height, width = op.boxes(drawn(arm.spec, MANY), 224, 224).double().unbind(1)
    assert height.min() >= 1
    assert (top + height).max() <= 224
    assert (left + width).max() <= 224
    assert min(top.min(), left.min()) >= 0
    area, aspect = height * width / 224**2, width / height
    assert least - 0.01 <= area.min() <= least + 0.02
    assert area.max() > 0.98
    assert area.mean() == pytest.approx((1 + least) / 2, abs=0.02)
    assert area.std() == pytest.approx((1 - least) / 12**0.5, abs=0.01)
    assert aspect.log().mean() == pytest.approx(0, abs=0.02)
    assert aspect.min() >= 0.73
    assert aspect.max() <= 1.37
    if least < 0.7:
        assert aspect.min() < 0.78
        assert aspect.max() > 1.28


def test_small_crops_have_a_log_uniform_aspect_and_lie_everywhere() -> None:
    arm = make_arm("random_resized_crop:0.1")
    op = arm.ops[0]
    assert isinstance(op, RandomResizedCrop)
    top, left, height, width = op.boxes(drawn(arm.spec, MANY), 512, 512).double().unbind(1)
    fits = height * width / 512**2 < 0.7
    bound = math.log(4 / 3)
    log_aspect = (width / height).log()[fits]
    assert log_aspect.std() == pytest.approx(2 * bound / 12**0.5, rel=0.05)
    for start, length in ((top, height), (left, width)):
        share = (start / (512 - length))[fits]
        assert (share.min(), share.max()) == (0, 1)
        assert share.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(32, 32), (5, 9), (7, 1)])
def test_a_crop_of_the_whole_area_changes_nothing(shape: tuple[int, int], photographs) -> None:
    images = photographs[:, :, : shape[0], : shape[1]]
    arm = make_arm("random_resized_crop:1")
    assert torch.equal(arm.pixels(images, drawn(arm.spec)), images)


@pytest.mark.parametrize("side", [32, 48])
def test_a_resized_crop_is_pillows_bit_for_bit(side: int, photographs) -> None:
    images = torch.nn.functional.interpolate(photographs, (side, side))
    arm = make_arm("random_resized_crop:0.1")
    params = drawn(arm.spec)
    out = arm.pixels(images, params)
    boxes = arm.ops[0].boxes(params, side, side).tolist()
    for image, ours, (top, left, height, width) in zip(images, out, boxes, strict=True):
        crop = Image.fromarray(image.permute(1, 2, 0).numpy())
        crop = crop.crop((left, top, left + width, top + height))
        theirs = np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR))
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), theirs)


@pytest.mark.parametrize("name", WITHOUT_FILES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (3, 10), (224, 224)])
def test_odd_sizes_work(name: str, shape: tuple[int, int]) -> None:
    images = torch.full((3, 3, *shape), 9, dtype=torch.uint8)
    out = make_arm(name).pixels(images, drawn(name, KEYS[:3]))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)


def test_stored_draws_know_no_image_size() -> None:
    op, params = RandomResizedCrop(0.25), drawn("random_resized_crop:0.25", MANY)
    small, large = op.boxes(params, 100, 100), op.boxes(params, 400, 400)
    assert (large - 4 * small).abs().max() <= 6


@pytest.mark.gpu
@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_a_gpu_gives_the_same_bits(name: str, photographs) -> None:
    arm, params = make_arm(name), drawn(name)
    for images in (photographs, photographs[:, :, :9, :13]):
        on_gpu = arm.pixels(images.cuda(), params.cuda())
        assert torch.equal(on_gpu.cpu(), arm.pixels(images, params))
    floats = photographs.float() / 255
    on_gpu = arm.normalised(floats.cuda(), params.cuda()).cpu()
    exact = name not in ("band_noise", "low_pass", "high_pass")  # these take a Fourier transform
    assert torch.allclose(on_gpu, arm.normalised(floats, params), rtol=0, atol=0 if exact else 1e-5)


RANGES = {
    "noise_denoise": "[0, 1]",
    "crop_flip_noise": "[0, 1]",
    "color_jitter": "[0, 1]",
    "random_resized_crop": "(0, 1]",
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("strength", ["nan", "inf", "red", "-0.1", "1.01", " ", "0.1:0.2"])
def test_bad_strengths_are_refused(name: str, strength: str, refused) -> None:
    refused(lambda: make_arm(f"{name}:{strength}"), f"{name}:{strength}", RANGES[name])


def test_a_crop_of_no_area_is_refused(refused) -> None:
    refused(lambda: make_arm("random_resized_crop:0"), "`0`", "(0, 1]")
    refused(lambda: make_arm("random_resized_crop:1e-999"), "`1e-999`", "(0, 1]")
    assert make_arm("random_resized_crop:0.001").spec == "random_resized_crop:0.001"


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_strengths_are_recorded_with_their_unit(name: str) -> None:
    assert make_arm(f"{name}:0.5").options["unit"]
    assert 0.5 in make_arm(f"{name}:0.5").options.values()


def test_every_arm_is_described_in_one_line() -> None:
    assert [form.partition("[")[0] for form, _ in describe_arms()] == list(ARMS)
    assert dict(describe_arms())["clean"] == "the image unchanged"
    assert "noise[:SIGMA]" in dict(describe_arms())
    for form, text in describe_arms():
        assert text
        assert "\n" not in text
        assert form == "clean" or re.fullmatch(r"[a-z_0-9]+\[(:[A-Z_]+)+\]", form)


def test_an_arm_without_a_docstring_is_described_by_its_name(monkeypatch) -> None:
    monkeypatch.setitem(ARMS, "flip", lambda spec, strength: make_arm("clean"))
    assert describe_arms()[-1] == ("flip", "")
