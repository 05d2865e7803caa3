"""Teachers that open_clip builds: its registered models, saved ones, and the embedded tiny CLIP."""

from __future__ import annotations

import copy
import logging
import os
import sys
import tempfile
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shards.support.registry import closest
from shards.support.resample import KERNELS
from shards.teachers import embedded
from shards.teachers.checkpoint import mismatch, read_checkpoint
from shards.teachers.clip_names import (
    CONFIG,
    RANDOM,
    SCHEMAS,
    ClipName,
    MissingLibraryError,
    check_text_library,
    configuration,
    missing_download,
    parse,
    settings_of,
    tag_of_file,
)
from shards.teachers.frozen import FrozenTeacher
from shards.teachers.libraries import open_clip
from shards.teachers.preprocess import Preprocess

EMBEDDED = "embedded"


class TextTower(nn.Module):
    """The text tower of an open_clip model and its tokenizer, with open_clip's interface.

    `architecture` (the model's name in open_clip, or `embedded`), `quick_gelu` and the weights
    (`clip.state_dict()`) are all that `build_text` needs to rebuild it.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, architecture: str, quick_gelu: bool):
        super().__init__()
        self.clip, self.tokenizer = clip, tokenizer
        self.architecture, self.quick_gelu = architecture, quick_gelu

    def encode_text(self, text_TL: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Embed token ids (T, L) from `tokenizer`: (T, D), of unit length if `normalize`."""
        return self.clip.encode_text(text_TL, normalize=normalize)  # pyright: ignore[reportCallIssue]

    @property
    def logit_scale(self) -> nn.Parameter:
        """The natural logarithm of the factor that multiplies cosines, a scalar."""
        return self.clip.logit_scale  # pyright: ignore[reportReturnType]

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The bias that SigLIP adds to the scaled cosines, a scalar; None for CLIP."""
        return getattr(self.clip, "logit_bias", None)


def _text_half(model: nn.Module) -> nn.Module:
    """A copy of a model without its image tower and without a captioning decoder.

    The memo of `deepcopy` replaces them before they are copied, so their weights never are.
    """
    left_out = [m for n in ("visual", "text_decoder") if (m := getattr(model, n, None)) is not None]
    return copy.deepcopy(model, {id(module): nn.Identity() for module in left_out})


class ClipTeacher(FrozenTeacher):
    """A teacher from any open_clip model; its embeddings are the image tower's output."""

    has_text = True

    def __init__(
        self,
        spec: str,
        model: Any,
        preprocess: Preprocess,
        tokenizer: Any,
        device: str,
        quick_gelu: bool = False,
    ) -> None:
        self._tokenizer, self._quick_gelu = tokenizer, quick_gelu
        super().__init__(spec, model, preprocess, device)

    def text_tower(self) -> TextTower:
        """A copy of the text tower, on the same device, in the current precision."""
        known = self.spec == EMBEDDED
        name = EMBEDDED if known else parse(self.spec.removeprefix("open_clip:")).model
        return TextTower(_text_half(self._model), self._tokenizer, name, self._quick_gelu)

    def _encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self._model.encode_image(images_BCHW)

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Embed texts: float32 (len(texts), D), not of unit length."""
        return self._model.encode_text(self._tokenizer(texts).to(self._device)).float()


def _square(size: int | list[int] | tuple[int, ...], spec: str) -> int:
    """The side of a square input in pixels. Raises: ValueError for one that is not square."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(
            f"teacher `{spec}`: takes images of {size}, not square ones; choose another model"
        )
    return int(sides.pop())


def _preprocess(config: dict[str, Any], spec: str) -> Preprocess:
    kernel = config.get("interpolation", "bicubic")
    if kernel not in KERNELS:
        raise ValueError(f"teacher `{spec}`: interpolation {kernel}; known: {', '.join(KERNELS)}")
    return Preprocess(
        size=_square(config["size"], spec),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=kernel,
    )


def open_registered(argument: str, device: str) -> FrozenTeacher:
    """Open the teacher `open_clip:ARGUMENT`; see `clip_names.parse` for the argument.

    Random weights (`none`) come from a fixed seed, with a warning on stderr.
    Raises: ValueError for an unknown name, or weights that are missing or do not fit.
    """
    name = parse(argument)
    spec = f"open_clip:{argument}"
    if name.tag == RANDOM:
        print(
            f"WARNING: teacher {spec} has RANDOM weights: enough to test the pipeline, "
            "but its embeddings mean nothing",
            file=sys.stderr,
        )
    if name.file:
        return _open_file(argument, name, device)
    quick_gelu = _registered(name) and settings_of(name.model, name.tag).quick_gelu
    try:
        # The configuration of a model on the hub was not known before.
        check_text_library(argument, open_clip.get_model_config(name.model))
        model = _create(name.model, name.tag if name.tag != RANDOM else "", quick_gelu, name.tag)
        tokenizer = open_clip.get_tokenizer(name.model)
    except MissingLibraryError:
        raise
    except Exception as error:  # an unknown checkpoint can make open_clip raise nearly anything
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        missing = missing_download(argument)
        first = f"no {missing} ({first})" if missing else first
        instead = f"a local checkpoint: open_clip:{name.model}:{name.tag}@PATH"
        if name.model.startswith(SCHEMAS):
            instead = f"a folder with {CONFIG}, weights and tokenizer: open_clip:local-dir:PATH"
        raise ValueError(f"teacher `{spec}`: {first}; without a network, give {instead}") from None
    config = open_clip.get_model_preprocess_cfg(model)
    return ClipTeacher(spec, model, _preprocess(config, spec), tokenizer, device, quick_gelu)


def _registered(name: ClipName) -> bool:
    return bool(name.tag) and name.tag != RANDOM


def _create(model: str, weights: str, quick_gelu: bool, tag: str) -> Any:
    """open_clip's create_model, with weights from a tag or file, or random from a fixed seed.

    The activation is forced, because open_clip only warns where a tag was trained with QuickGELU
    and the model is built without it, and the embeddings would be wrong.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return open_clip.create_model(
            model,
            pretrained=weights or None,
            load_weights=tag != RANDOM,
            require_pretrained=tag != RANDOM,
            force_quick_gelu=quick_gelu,
            pretrained_text=False,
            weights_only=True,
        )


def _open_file(argument: str, name: ClipName, device: str) -> FrozenTeacher:
    """Open a local checkpoint with the activation and preprocessing of its tag.

    The tensors are read without executing code in the file, and passed to open_clip as safetensors.
    Its conversions (other authors' parameter names, position embeddings of another length) then
    apply as they would to a download.
    """
    spec = f"open_clip:{argument}"
    openai = False
    with tempfile.TemporaryDirectory() as folder:
        source = name.file
        try:
            if not source.endswith((".npz", ".npy")):  # SigLIP's, which open_clip reads as arrays
                checkpoint = read_checkpoint(name.file)
                openai, source = checkpoint.openai, os.path.join(folder, "weights.safetensors")
                save_file(checkpoint.tensors, source)
            tag = tag_of_file(argument, name, openai)
            settings = settings_of(name.model, tag) if tag else None
            quick_gelu = settings is not None and settings.quick_gelu
            model = _create(name.model, source, quick_gelu, tag)
            tokenizer = open_clip.get_tokenizer(name.model)
        except Exception as error:  # open_clip's conversions have asserts for unknown files
            text = mismatch(error, name.model)
            prefix = "" if text.startswith("teacher ") else f"teacher `{spec}`: "
            raise ValueError(prefix + text) from None
    config = open_clip.get_model_preprocess_cfg(model)
    if settings is not None:
        config |= {"mean": settings.mean, "std": settings.std}
        config["interpolation"] = settings.interpolation
    teacher = ClipTeacher(spec, model, _preprocess(config, spec), tokenizer, device, quick_gelu)
    teacher.tag = tag or None
    return teacher


def _embedded_model(config: dict[str, Any]) -> tuple[nn.Module, Any]:
    """(The embedded CLIP with random weights, its tokenizer)."""
    # Without the fork, the random initialisation would advance the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = open_clip.CLIP(
            embed_dim=config["embed_dim"],
            vision_cfg=open_clip.CLIPVisionCfg(**config["vision_cfg"]),
            text_cfg=open_clip.CLIPTextCfg(**config["text_cfg"]),
        )
    length = config["text_cfg"]["context_length"]
    return model, open_clip.SimpleTokenizer(context_length=length)


def open_embedded(device: str) -> FrozenTeacher:
    """The tiny CLIP that ships with the package (shards/teachers/embedded/CARD.md)."""
    config, weights = embedded.files()
    model, tokenizer = _embedded_model(config)
    state = {name: tensor.float() for name, tensor in load_file(weights).items()}
    model.load_state_dict(state, strict=True)
    preprocess = _preprocess(config["preprocess_cfg"], EMBEDDED)
    return ClipTeacher(EMBEDDED, model, preprocess, tokenizer, device)


def build_text(architecture: str, quick_gelu: bool, state: dict[str, torch.Tensor]) -> TextTower:
    """Rebuild a text tower from its weights, on the CPU, frozen; see `TextTower`.

    Raises: ValueError for an unknown architecture, or weights that do not fit it.
    """
    if architecture == EMBEDDED:
        model, tokenizer = _embedded_model(embedded.files()[0])
    elif architecture in open_clip.list_models() or architecture.startswith(SCHEMAS):
        before = logging.root.manager.disable
        # open_clip warns of random weights, which are replaced below.
        logging.disable(logging.WARNING)
        try:
            with torch.random.fork_rng(devices=[]):
                model = open_clip.create_model(
                    architecture,
                    load_weights=False,
                    force_quick_gelu=quick_gelu,
                    pretrained_text=False,
                )
            tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, ValueError, RuntimeError) as error:
            first = " ".join(str(error).split())[:160]
            raise ValueError(f"text tower: {architecture} cannot be built: {first}") from None
        finally:
            logging.disable(before)
    else:
        near = closest(architecture, open_clip.list_models()).split("valid:", maxsplit=1)[0]
        raise ValueError(f"text tower: open_clip has no model `{architecture}`; {near}".strip())
    half = _text_half(model)
    try:
        half.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:160]
        raise ValueError(f"text tower: weights are not those of {architecture}: {first}") from None
    tower = TextTower(half, tokenizer, architecture, quick_gelu)
    return tower.eval().requires_grad_(False)


def configured_size(spec: str) -> int:
    """The side of the image tower's input in pixels, from the model's configuration alone."""
    return _square(_configuration(spec).get("vision_cfg", {}).get("image_size", 224), spec)


def configured_dim(spec: str) -> int:
    """The width of the embeddings, from the model's configuration alone."""
    return int(_configuration(spec)["embed_dim"])


def _configuration(spec: str) -> dict[str, Any]:
    argument = spec.removeprefix("open_clip:")
    return configuration(argument, parse(argument).model)
