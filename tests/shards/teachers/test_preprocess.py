from __future__ import annotations

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from shards.support.resample import coefficients, resize, resize_exact
from shards.teachers.preprocess import CPU_BATCH, Preprocess
from shards.teachers.timm_models import _preprocess

PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(32, 224), (100, 32), (32, 33), (48, 48), (8, 32), (300, 224), (224, 96)]


def pictures(count: int, side: int) -> np.ndarray:
    """Photographs, and what is hardest: noise, hard edges (which overshoot) and ramps."""
    photographs = load_sample_images().images
    corners = np.random.default_rng(0).integers(0, 420 - 2, (count, 2))
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(photographs[i % 2])
                .crop((x, y, x + 220, y + 220))
                .resize((side,) * 2)
            )
            for i, (x, y) in enumerate(corners % 200)
        ]
    )
    images[0] = 255 * (np.indices((side, side)).sum(axis=0) // 3 % 2)[..., None]
    images[1] = np.linspace(0, 255, side).astype(np.uint8)[None, :, None]
    images[2] = np.random.default_rng(1).integers(0, 256, images[2].shape)
    return images


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("kernel", sorted(PILLOW))
@pytest.mark.parametrize(("side", "size"), SIZES)
def test_resize_is_within_one_level_of_pillow(kernel: str, side: int, size: int) -> None:
    images = pictures(20, side)
    ours = resize(channels_first(images), size, kernel).permute(0, 2, 3, 1).numpy()
    pillow = [np.asarray(Image.fromarray(i).resize((size, size), PILLOW[kernel])) for i in images]
    apart = np.abs(ours.astype(int) - np.stack(pillow))
    assert (apart > 1).mean() < 1e-3
    assert (apart > 0).mean() < 0.02
    assert apart.max() <= 2


@pytest.mark.parametrize("kernel", sorted(PILLOW))
@pytest.mark.parametrize(("side", "size"), SIZES)
def test_other_devices_do_the_same_arithmetic(kernel: str, side: int, size: int) -> None:
    images = channels_first(pictures(8, side))
    assert torch.equal(resize(images, size, kernel), resize_exact(images, size, kernel))


@pytest.mark.gpu
@pytest.mark.parametrize(("side", "size"), SIZES)
def test_a_gpu_gives_the_same_pixels(side: int, size: int) -> None:
    images = channels_first(pictures(8, side))
    assert torch.equal(resize(images.cuda(), size).cpu(), resize(images, size))


@pytest.mark.parametrize("kernel", sorted(PILLOW))
def test_coefficients_of_22_bits_are_pillows_own(kernel: str) -> None:
    images = pictures(6, 40)
    weights = coefficients(40, 64, kernel)
    rows = (images.transpose(0, 3, 1, 2) @ weights.numpy().T + 0.5).clip(0, 255) // 1
    out = ((weights.numpy() @ rows + 0.5).clip(0, 255) // 1).transpose(0, 2, 3, 1)
    for image, ours in zip(images, out, strict=True):
        assert np.array_equal(ours, Image.fromarray(image).resize((64, 64), PILLOW[kernel]))


def test_resize_leaves_its_input_and_takes_an_empty_batch() -> None:
    images = channels_first(pictures(3, 32))
    before = images.clone()
    resize(images, 64)
    assert torch.equal(images, before)
    assert resize(images[:0], 64).shape == (0, 3, 64, 64)
    assert Preprocess(size=64, mean=MEAN, std=STD)(images[:0]).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(("size", "count"), [(64, 200), (320, CPU_BATCH + 3)])
def test_an_image_gives_the_same_floats_in_any_batch(size: int, count: int) -> None:
    """More images than are prepared at a time."""
    images = channels_first(pictures(count, 32))
    preprocess = Preprocess(size=size, resize=size + 8, mean=MEAN, std=STD)
    alone = torch.cat([preprocess(image[None]) for image in images])
    assert torch.equal(preprocess(images), alone)
    assert preprocess(images).is_contiguous(memory_format=torch.channels_last)


def levels_apart(ours: torch.Tensor, theirs: torch.Tensor, std: tuple[float, ...]) -> torch.Tensor:
    return ((ours - theirs) * torch.tensor(std)[:, None, None] * 255).abs()


@pytest.mark.parametrize(("side", "size"), [(32, 224), (300, 224), (224, 224)])
def test_floats_equal_open_clips_own_transform(side: int, size: int) -> None:
    images = pictures(9, side)
    transform = open_clip.image_transform(size, is_train=False, mean=MEAN, std=STD)
    theirs = torch.stack([transform(Image.fromarray(image)) for image in images])
    ours = Preprocess(size=size, mean=MEAN, std=STD)(channels_first(images))
    assert (ours.dtype, ours.shape) == (torch.float32, theirs.shape)
    apart = levels_apart(ours, theirs, STD)
    assert (apart > 1.001).double().mean() < 1e-3
    if side == size:
        assert apart.max() < 1e-3


@pytest.mark.parametrize(
    "name", ["test_vit.r160_in1k", "resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k"]
)
def test_floats_equal_timms_own_transform(name: str) -> None:
    model = timm.create_model(name, pretrained=False, num_classes=0)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    images = pictures(5, 200)
    theirs = torch.stack([transform(Image.fromarray(image)) for image in images])
    ours = _preprocess(model, f"timm:{name}")(channels_first(images))
    assert ours.shape == theirs.shape
    assert (levels_apart(ours, theirs, config["std"]) > 1.001).double().mean() < 1e-3


def geometries() -> set[tuple[int, int, str]]:
    """(resize, size, kernel) of everything square that timm and open_clip register."""
    found = set()
    for name in timm.list_models(pretrained=True):
        config = timm.data.resolve_data_config(
            pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()
        )
        (_, height, width), crop = config["input_size"], config["crop_pct"]
        if height == width and crop <= 1:
            found.add((int(height / crop), height, config["interpolation"]))
    for name, tag in open_clip.list_pretrained():
        size = (open_clip.get_model_config(name) or {}).get("vision_cfg", {}).get("image_size", 224)
        kernel = open_clip.get_pretrained_cfg(name, tag).get("interpolation") or "bicubic"
        if isinstance(size, int):
            found.add((size, size, kernel))
    return found


@pytest.mark.slow
def test_every_registered_geometry_is_within_one_level_of_pillow() -> None:
    images = pictures(5, 96)
    asked = geometries()
    assert len(asked) > 50
    for wide, size, kernel in sorted(asked):
        transform = Compose([Resize(wide, InterpolationMode(kernel)), CenterCrop(size)])
        theirs = np.stack([np.asarray(transform(Image.fromarray(image))) for image in images])
        preprocess = Preprocess(size=size, resize=wide, mean=MEAN, std=STD, interpolation=kernel)
        ours = preprocess.pixels(channels_first(images)).permute(0, 2, 3, 1).numpy()
        apart = np.abs(ours.astype(int) - theirs)
        assert (apart > 1).mean(axis=(1, 2, 3)).max() < 1e-3
        assert apart.max() <= 2


def test_native_keeps_the_size_and_the_normalisation() -> None:
    images = channels_first(pictures(3, 32))
    out = Preprocess(size=224, resize=256, mean=MEAN, std=STD).native(32)(images)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    assert torch.allclose(out, (images / 255 - mean) / std, rtol=0, atol=1e-6)
