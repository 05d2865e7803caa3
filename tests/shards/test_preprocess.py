from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from shards.preprocess import Preprocess, resize

PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Noise, hard edges (which overshoot) and ramps, uint8 (count, height, width, 3)."""
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    images[0] = 255 * (np.indices((height, width)).sum(axis=0) // 3 % 2)[..., None]
    images[1] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    return images


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("kernel", sorted(PILLOW))
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 224), (100, 100, 32), (32, 32, 33), (48, 48, 48), (40, 64, 64), (64, 40, 64)],
)
def test_resize_equals_pillow_bit_for_bit(kernel, height, width, size) -> None:
    images = pictures(7, height, width)
    ours = resize(channels_first(images), size, kernel).permute(0, 2, 3, 1).numpy()
    for image, out in zip(images, ours, strict=True):
        pillow = Image.fromarray(image).resize((size, size), PILLOW[kernel])
        assert np.array_equal(out, np.asarray(pillow))


def test_resize_leaves_its_input_and_takes_an_empty_batch() -> None:
    images = channels_first(pictures(2, 32, 32))
    before = images.clone()
    resize(images, 64)
    assert torch.equal(images, before)
    assert resize(images[:0], 64).shape == (0, 3, 64, 64)
    assert Preprocess(size=64, mean=MEAN, std=STD)(images[:0]).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(("source", "size"), [(32, 224), (300, 224), (224, 224)])
def test_floats_equal_open_clips_own_transform(source: int, size: int) -> None:
    images = pictures(9, source, source)
    theirs = open_clip.image_transform(size, is_train=False, mean=MEAN, std=STD)
    expected = torch.stack([theirs(Image.fromarray(image)) for image in images])
    ours = Preprocess(size=size, mean=MEAN, std=STD)(channels_first(images))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, expected, rtol=0, atol=1e-6)


def test_native_keeps_the_size_and_the_normalisation() -> None:
    images = channels_first(pictures(3, 32, 32))
    out = Preprocess(size=224, mean=MEAN, std=STD).native(32)(images)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    assert torch.allclose(out, (images / 255 - mean) / std, rtol=0, atol=1e-6)
