"""Measure the embedded teacher, from its stored fp16 weights converted to fp32; prints JSON.

python -m shards.teachers.embedded.measure       # the teacher that ships with the package
python -m shards.teachers.embedded.measure DIR   # one that shards.teachers.embedded.train wrote
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from shards.datasets import Dataset, open_dataset
from shards.measures.spectrum import effective_rank
from shards.support.command import command, make_parser

FOLDER = Path(__file__).parent
HELP = "folder with config.json and weights.safetensors (default: the embedded teacher's)"
SIGMAS = (0.0, 0.1, 0.2)  # Gaussian noise in [0, 1] pixels, rounded to uint8 levels and clipped
CARD = """# Model card: `embedded`

A real, very small CLIP (open_clip format), trained from scratch by
`shards/teachers/embedded/train.py`. It exists so that everything runs without a download; it knows
handwritten digits and no more.

- Image tower: ViT, {image_size} x {image_size} RGB, patch {patch_size}, {layers} layers,
  width {width}.
- Text tower: transformer, {text_layers} layers of width {text_width}, {context} tokens, open_clip's
  SimpleTokenizer. Both towers project to {embed_dim} dimensions.
- Parameters: {image_parameters:,} in the image tower, {text_parameters:,} in the text tower
  (of these {token_parameters:,} in the token embedding, with zero rows for words not in training).
- Data: scikit-learn's digits (UCI), enlarged to 32 x 32: {train:,} train, {test:,} held out.
- Objective: CLIP's contrastive loss on captions whose attributes are measured from the image
  (every caption true of a view is a positive), plus NT-Xent between two augmented views of a digit.
  No term for rank, covariance or decorrelation.
- Stored in fp16; every figure below is measured on the stored weights, read back as fp32.

| on the {test} held-out digits            | sigma 0 | sigma 0.1 | sigma 0.2 |
|---------------------------------------|---------|-----------|-----------|
| zero-shot accuracy, prompts averaged  | {zero_shot} |
| linear probe accuracy (logistic)      | {probe} |
| effective rank of the embeddings      | {rank} |

Sigma: Gaussian pixel noise in [0, 1] units. Effective rank: singular values s of the centred,
L2-normalised embeddings; p = s^2 / sum s^2; exp(-sum p ln p). Learned logit scale: {scale:.1f}.

- sha256 of weights.safetensors: `{sha256}`
- Reproduce: `python -m shards.teachers.embedded.train --out DIR` (two CPU threads, about ten
  minutes; bit-identical on the same machine with the same torch). Measure: `python -m
  shards.teachers.embedded.measure DIR`.
- Limits: one data set of 8 x 8 scans, whose writers are on both sides of the split, so accuracy on
  new writers is not known; a vocabulary of about fifty words; no mirrored images in training;
  embeddings of photographs mean nothing.
"""


def build(config: dict[str, Any]) -> open_clip.CLIP:
    """The open_clip model that config.json describes, with random weights."""
    return open_clip.CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})


def load(folder: Path) -> tuple[open_clip.CLIP, dict[str, Any]]:
    """(The model stored in `folder`, as fp32; its configuration)."""
    config = json.loads((folder / "config.json").read_text())
    model = build(config).eval()
    weights = load_file(folder / "weights.safetensors")
    model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=True)
    return model, config


def normalise(images_BCHW: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Normalise pixels in [0, 1], (B, 3, H, W), for the image tower."""
    mean, std = (torch.tensor(config["preprocess_cfg"][k])[:, None, None] for k in ("mean", "std"))
    return (images_BCHW - mean) / std


@torch.no_grad()
def embed(
    model: open_clip.CLIP,
    config: dict[str, Any],
    dataset: Dataset,
    split: str,
    sigma: float = 0.0,
) -> np.ndarray:
    """Unit image embeddings (N, D) of a split, with pixel noise of `sigma` (seed 0)."""
    images_NHWC = dataset.read(split, 0, dataset.count(split)).images_NHWC
    noise_NHWC = np.random.default_rng(0).normal(size=images_NHWC.shape) * sigma * 255
    levels_NHWC = np.clip(np.round(images_NHWC + noise_NHWC), 0, 255) / 255
    images_NCHW = torch.from_numpy(levels_NHWC).float().permute(0, 3, 1, 2)
    return model.encode_image(normalise(images_NCHW, config), normalize=True).numpy()


@torch.no_grad()
def classifier(
    model: open_clip.CLIP, config: dict[str, Any], classes: tuple[str, ...]
) -> np.ndarray:
    """Zero-shot weights (C, D): the normalised mean of the unit embeddings of the prompts."""
    tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    texts = [prompt.format(name) for name in classes for prompt in config["prompts"]]
    text_CPD = model.encode_text(tokenizer(texts), normalize=True).unflatten(0, (len(classes), -1))
    return F.normalize(text_CPD.mean(dim=1), dim=-1).numpy()


def measure(folder: Path) -> dict[str, Any]:
    """All figures of the model card; accuracies and ranks are lists over SIGMAS."""
    from sklearn.linear_model import LogisticRegression

    model, config = load(folder)
    dataset = open_dataset("digits")
    labels_N = dataset.labels("test")
    clean_ND = embed(model, config, dataset, "train")
    probe = LogisticRegression(C=10, max_iter=1000).fit(clean_ND, dataset.labels("train"))
    tests = [embed(model, config, dataset, "test", sigma) for sigma in SIGMAS]
    text_CD = classifier(model, config, dataset.classes)
    image_parameters = sum(p.numel() for p in model.visual.parameters())
    weights = (folder / "weights.safetensors").read_bytes()
    return {
        "zero_shot": [float(np.mean((e @ text_CD.T).argmax(axis=1) == labels_N)) for e in tests],
        "probe": [float(probe.score(e, labels_N)) for e in tests],
        "rank": [effective_rank(e) for e in tests],
        "scale": model.logit_scale.exp().item(),
        "image_parameters": image_parameters,
        "text_parameters": sum(p.numel() for p in model.parameters()) - image_parameters,
        "token_parameters": model.get_parameter("token_embedding.weight").numel(),
        "train": dataset.count("train"),
        "test": dataset.count("test"),
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }


def card(figures: dict[str, Any], config: dict[str, Any]) -> str:
    """The text of CARD.md, from what `measure` returned and the model's configuration."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    rows = {
        "zero_shot": " | ".join(f"{100 * a:5.1f} %" for a in figures["zero_shot"]),
        "probe": " | ".join(f"{100 * a:5.1f} %" for a in figures["probe"]),
        "rank": " | ".join(f"{r:7.1f}" for r in figures["rank"]),
    }
    shape = {"embed_dim": config["embed_dim"], "context": text["context_length"]}
    shape |= {"text_layers": text["layers"], "text_width": text["width"]}
    shape |= {key: vision[key] for key in ("image_size", "patch_size", "layers", "width")}
    return CARD.format(**{**figures, **rows, **shape})


@command
def main(argv: list[str]) -> int:
    parser = make_parser("shards.teachers.embedded.measure", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="DIR", help=HELP)
    print(json.dumps(measure(parser.parse_args(argv).folder), indent=2))
    return 0


if __name__ == "__main__":
    main()
