"""Train the embedded teacher: a tiny CLIP of scikit-learn's digits, captioned by this script.

    python -m shards.teachers.embedded.train --out DIR   # config.json, weights.safetensors, CARD.md

Each step uses two augmented views of each of B digits, with a caption for each view such as "a bold
handwritten three leaning right", whose attributes are measured on the view. The loss is the sum of

    captions   CLIP's symmetric cross-entropy over 2B views x 2B captions. Every caption that is
               true of a view is a positive, with equal weight, so none is a false negative.
    instances  NT-Xent (SimCLR): a view identifies the other view of its digit among 2B - 1 views.

No term of the loss contains rank, covariance or correlation, which are what trials measure. Only
the train split is used. The figures in CARD.md are those of the stored fp16 weights
(`shards.teachers.embedded.measure`).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save

from shards.datasets import open_dataset
from shards.support.command import command, make_parser
from shards.teachers.embedded.measure import FOLDER, build, card, measure, normalise

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Attributes in the order of `measure_ink`, as (word for a low value, word for a high value).
ADJECTIVES = (("thin", "bold"), ("narrow", "wide"), ("small", "large"))
CLAUSES = (
    ("leaning left", "leaning right"),
    ("on the left", "on the right"),
    ("near the top", "near the bottom"),
)
TEMPLATES = (
    "a {adjectives}handwritten digit {name}{clauses}",
    "a {adjectives}{name}{clauses}",
    "the {adjectives}number {name}{clauses}",
    "a photo of the {adjectives}digit {name}{clauses}",
    "a photo of a {adjectives}handwritten {name}{clauses}",
    "the {adjectives}numeral {name} written by hand{clauses}",
    "a photo of a {adjectives}{name}{clauses}.",
)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters. `temperature` is NT-Xent's; that of the captions is learned, as in CLIP."""

    seed: int = 0
    steps: int = 1500
    batch: int = 256  # digits; twice as many views
    rate: float = 1e-3
    warmup: int = 100  # steps of linear warm-up, followed by cosine decay to zero
    decay: float = 0.05  # weight decay, of matrices only
    temperature: float = 0.1
    mention: float = 0.4  # probability that a true attribute is in the caption
    noise: float = 0.25  # half of the views get Gaussian noise with sigma uniform in [0, noise]
    threads: int = 2


def _uniform(low: float, high: float, size: int, rng: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(size, generator=rng)


def move(grey_B1HW: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random affine map of images (B, 1, H, W).

    Rotation up to 12 degrees, shear up to 0.2, scales 0.85 to 1.15, shifts up to 4 of 32 pixels.
    """
    count = len(grey_B1HW)
    angle = _uniform(-math.pi / 15, math.pi / 15, count, rng)
    shear = _uniform(-0.2, 0.2, count, rng)
    wide, high = (_uniform(0.85, 1.15, count, rng) for _ in "xy")
    right, down = (_uniform(-0.25, 0.25, count, rng) for _ in "xy")  # 1 is half the image
    cos, sin = angle.cos(), angle.sin()
    rows = [cos / wide, (shear * cos - sin) / high, right, sin / wide, (shear * sin + cos) / high]
    theta_B23 = torch.stack([*rows, down], dim=1).view(count, 2, 3)
    grid = F.affine_grid(theta_B23, list(grey_B1HW.shape), align_corners=False)
    return F.grid_sample(grey_B1HW, grid, align_corners=False)


def shade(grey_B1HW: torch.Tensor, noise: float, rng: torch.Generator) -> torch.Tensor:
    """Random blur (of a third), contrast, brightness and noise (of half), clipped to [0, 1].

    From (B, 1, H, W) to (B, 3, H, W): the noise differs between the colour channels.
    """
    count, side = len(grey_B1HW), grey_B1HW.shape[-1]
    sigma_B1 = _uniform(0.4, 1.4, count, rng)[:, None]
    taps_B5 = torch.exp(-(torch.arange(-2, 3) ** 2) / (2 * sigma_B1**2))
    taps_B5 /= taps_B5.sum(dim=1, keepdim=True)
    kernel_B155 = (taps_B5[:, :, None] * taps_B5[:, None, :])[:, None]
    blurred = F.conv2d(grey_B1HW.transpose(0, 1), kernel_B155, padding=2, groups=count)
    is_blurred_B = torch.rand(count, generator=rng) < 1 / 3
    shape = (count, 1, 1, 1)
    grey = torch.where(is_blurred_B.view(shape), blurred.transpose(0, 1), grey_B1HW)
    grey = grey * _uniform(0.6, 1.2, count, rng).view(shape)
    grey = (grey + _uniform(-0.05, 0.15, count, rng).view(shape)).clamp_(0, 1)
    level_B = noise * (2 * torch.rand(count, generator=rng) - 1).clamp_(min=0)
    normal_BCHW = torch.randn(count, 3, side, side, generator=rng)
    return (grey + level_B.view(shape) * normal_BCHW).clamp_(0, 1)


def measure_ink(grey_B1HW: torch.Tensor) -> torch.Tensor:
    """Boldness, width, size, slant, x and y of the ink, computed from its moments: (B, 6)."""
    ink_BHW = grey_B1HW[:, 0]
    side = ink_BHW.shape[-1]
    axis = torch.linspace(-1, 1, side)
    mass_B = ink_BHW.sum(dim=(1, 2)) + 1e-6
    x_B = (ink_BHW * axis).sum(dim=(1, 2)) / mass_B
    y_B = (ink_BHW * axis[:, None]).sum(dim=(1, 2)) / mass_B
    dx_B1W = axis - x_B[:, None, None]
    dy_BH1 = axis[:, None] - y_B[:, None, None]
    xx_B = (ink_BHW * dx_B1W**2).sum(dim=(1, 2)) / mass_B
    yy_B = (ink_BHW * dy_BH1**2).sum(dim=(1, 2)) / mass_B
    xy_B = (ink_BHW * dx_B1W * dy_BH1).sum(dim=(1, 2)) / mass_B
    extent_B = (xx_B + yy_B).sqrt()
    columns = [mass_B / extent_B, (xx_B / yy_B).sqrt(), extent_B, -xy_B / yy_B, x_B, y_B]
    return torch.stack(columns, dim=1)


def caption(label: int, attributes: list[int], rng: np.random.Generator) -> str:
    """A random caption of a digit.

    attributes: for each attribute -1 (its low word), 0 (not mentioned) or 1 (its high word).
    """
    pairs = zip(ADJECTIVES + CLAUSES, attributes, strict=True)
    words = [pair[value > 0] if value else "" for pair, value in pairs]
    adjectives = "".join(f"{word} " for word in words[: len(ADJECTIVES)] if word)
    clauses = "".join(f" {word}" for word in words[len(ADJECTIVES) :] if word)
    name = WORDS[label] if rng.random() < 0.7 else str(label)
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    return template.format(adjectives=adjectives, name=name, clauses=clauses)


def caption_loss(
    image_ND: torch.Tensor, text_ND: torch.Tensor, scale: torch.Tensor, is_true_NN: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric cross-entropy with several positives, in nats.

    is_true_NN[i, j]: whether caption j is true of view i. Its minimum is the targets' entropy.
    """
    logits_NN = scale * image_ND @ text_ND.T
    targets = is_true_NN.float()
    to_text = F.cross_entropy(logits_NN, targets / targets.sum(dim=1, keepdim=True))
    to_image = F.cross_entropy(logits_NN.T, (targets / targets.sum(dim=0, keepdim=True)).T)
    return (to_text + to_image) / 2


def instance_loss(image_ND: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent in nats; rows i and i + N / 2 are two views of the same digit."""
    count = len(image_ND)
    logits_NN = (image_ND @ image_ND.T / temperature).masked_fill(torch.eye(count).bool(), -1e4)
    return F.cross_entropy(logits_NN, torch.arange(count).roll(count // 2))


class Trainer:
    """The training loop of the embedded teacher.

    All randomness derives from `recipe.seed`: torch's global generator for the initial weights, one
    generator for pixels, and one for captions and the order of the samples.
    """

    def __init__(self, recipe: Recipe, config: dict[str, Any]) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.model = recipe, config, build(config)
        self.pixels = torch.Generator().manual_seed(recipe.seed + 1)
        self.texts = np.random.default_rng(recipe.seed + 2)
        self.tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
        dataset = open_dataset("digits")
        block = dataset.read("train", 0, dataset.count("train"))
        self.grey_N1HW = torch.from_numpy(block.images_NHWC[:, None, :, :, 0]).float() / 255
        self.labels_N = torch.from_numpy(block.labels_N)
        views = torch.cat([move(self.grey_N1HW, self.pixels) for _ in range(4)])
        self.bounds_2A = measure_ink(views).quantile(torch.tensor([0.3, 0.7]), dim=0)
        self._zero_unused_tokens()
        self.optimizer = self._optimizer()

    def _zero_unused_tokens(self) -> None:
        """Set the embeddings of tokens that no caption contains to 0.

        They are never trained: random values would make unknown words change an embedding, and
        would not compress.
        """
        texts = [w for pair in ADJECTIVES + CLAUSES for w in pair] + list(WORDS)
        texts += [str(digit) for digit in range(10)]
        texts += [t.format(adjectives="", name="", clauses="") for t in TEMPLATES]
        used = self.tokenizer(texts).unique()
        table = self.model.get_parameter("token_embedding.weight").data
        rows = table[used].clone()
        table.zero_()[used] = rows

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, weight in self.model.named_parameters():
            groups[weight.ndim >= 2 and "embedding" not in name].append(weight)
        parts = [
            {"params": groups[True], "weight_decay": self.recipe.decay},
            {"params": groups[False], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(parts, lr=self.recipe.rate, betas=(0.9, 0.98))

    def batch(self, index_B: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Two views of each digit of the train split that `index_B` selects.

        Returns (views (2B, 3, H, W), tokens (2B, L), which caption is true of which view (2B, 2B)).
        """
        index = torch.from_numpy(np.concatenate([index_B, index_B]))
        moved = move(self.grey_N1HW[index], self.pixels)
        labels_V = self.labels_N[index]
        ink_VA = measure_ink(moved)
        holds_VA = (ink_VA > self.bounds_2A[1]).long() - (ink_VA < self.bounds_2A[0]).long()
        mentioned = self.texts.random(holds_VA.shape) < self.recipe.mention
        captioned_VA = holds_VA * torch.from_numpy(mentioned)
        pairs = zip(labels_V.tolist(), captioned_VA.tolist(), strict=True)
        tokens_VL = self.tokenizer([caption(label, row, self.texts) for label, row in pairs])
        fits_VVA = (captioned_VA[None] == 0) | (captioned_VA[None] == holds_VA[:, None])
        is_true_VV = fits_VVA.all(dim=2) & (labels_V[:, None] == labels_V[None])
        return shade(moved, self.recipe.noise, self.pixels), tokens_VL, is_true_VV

    def step(self, number: int, index_B: np.ndarray) -> tuple[float, float]:
        """One optimiser step, number `number` from 0; returns (caption loss, instance loss)."""
        recipe, model = self.recipe, self.model
        views, tokens, is_true = self.batch(index_B)
        done = (number - recipe.warmup) / (recipe.steps - recipe.warmup)
        cosine = (1 + math.cos(math.pi * max(0.0, done))) / 2
        rate = recipe.rate * min(1.0, (number + 1) / recipe.warmup) * cosine
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        image = model.encode_image(normalise(views, self.config), normalize=True)
        text = model.encode_text(tokens, normalize=True)
        captions = caption_loss(image, text, model.logit_scale.exp(), is_true)
        instances = instance_loss(image, recipe.temperature)
        self.optimizer.zero_grad()
        (captions + instances).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return captions.item(), instances.item()

    def run(self, every: int = 50) -> None:
        """Train for all steps; each epoch shuffles the train split and drops its last short batch.

        every: steps between lines of progress.
        """
        recipe, order = self.recipe, np.zeros(0, dtype=np.int64)
        start, chance = time.monotonic(), math.log(2 * recipe.batch)
        self.model.train()
        for number in range(recipe.steps):
            if len(order) < recipe.batch:
                order = self.texts.permutation(len(self.labels_N))
            index_B, order = order[: recipe.batch], order[recipe.batch :]
            captions, instances = self.step(number, index_B)
            if number % every == 0 or number == recipe.steps - 1:
                spent = time.monotonic() - start
                left = spent / (number + 1) * (recipe.steps - number - 1)
                print(
                    f"step {number + 1}/{recipe.steps}  captions {captions:.3f}  instances "
                    f"{instances:.3f}  (chance {chance:.3f})  {spent:.0f} s, ETA {left:.0f} s",
                    flush=True,
                )
        self.model.eval()


def write(model: torch.nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write the weights in fp16, the configuration, and the card with their measured figures."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: w.detach().half().contiguous() for name, w in model.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(save(halves))
    (folder / "config.json").write_text((FOLDER / "config.json").read_text())
    (folder / "CARD.md").write_text(card(measure(folder), config))


@command
def main(argv: list[str]) -> int:
    parser = make_parser("shards.teachers.embedded.train", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--steps", type=int, default=Recipe.steps, help="optimiser steps (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=Recipe.seed, help="of all random numbers (default %(default)s)"
    )
    options = parser.parse_args(argv)
    recipe = Recipe(seed=options.seed, steps=options.steps)
    if recipe.steps <= recipe.warmup:
        raise ValueError(f"steps: {recipe.steps} must exceed the warm-up of {recipe.warmup}")
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    trainer = Trainer(recipe, json.loads((FOLDER / "config.json").read_text()))
    trainer.run()
    write(trainer.model, trainer.config, options.out)
    print((options.out / "CARD.md").read_text())
    return 0


if __name__ == "__main__":
    main()
