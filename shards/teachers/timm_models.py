"""Teachers from timm: any model with pooled features, such as DINOv2."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import Any

import torch

from shards.support.registry import closest
from shards.support.resample import KERNELS
from shards.teachers.checkpoint import mismatch, read_checkpoint
from shards.teachers.frozen import FrozenTeacher
from shards.teachers.libraries import timm
from shards.teachers.preprocess import Preprocess

RANDOM = "none"
# The settings of a pretrained tag that its tensors do not reveal.
SETTINGS = ("mean", "std", "interpolation", "crop_pct", "input_size")
# Names in timm's modules of the function that converts other authors' checkpoints.
CONVERSIONS = ("checkpoint_filter_fn", "_checkpoint_filter_fn", "_filter_fn")


def _parse(argument: str) -> tuple[str, str]:
    """(NAME, "" or `none` or PATH) of `NAME[:none|PATH]`.

    Raises: ValueError for a name that timm does not list, or a file that does not exist.
    """
    name, _, source = argument.partition(":")
    if not name:
        raise ValueError(
            "teacher `timm`: write timm:NAME, e.g. timm:vit_small_patch14_dinov2.lvd142m; "
            "timm:NAME:PATH for a local checkpoint, timm:NAME:none for random weights"
        )
    known = timm.list_models(pretrained=not source)
    bare = timm.list_models()
    if name not in known and not (source and name.split(".")[0] in bare):
        near = closest(name, [*known, *bare]).split("valid:", maxsplit=1)[0]
        kind = "model" if source else "pretrained model"
        raise ValueError(
            f"teacher `timm:{argument}`: unknown {kind} `{name}`; {near}timm.list_models() has all"
        )
    if source and source != RANDOM and not os.path.isfile(source):
        raise ValueError(f"teacher `timm:{argument}`: `{source}` is neither a file nor `none`")
    return name, source


def _preprocess(model: Any, spec: str) -> Preprocess:
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)
    kernel = config["interpolation"]
    if kernel not in KERNELS:
        raise ValueError(f"teacher `{spec}`: interpolation {kernel}; known: {', '.join(KERNELS)}")
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ValueError(f"teacher `{spec}`: takes {config['input_size']}, not square RGB images")
    resize = int(height / config["crop_pct"])
    if resize < height:
        raise ValueError(
            f"teacher `{spec}`: pads images of {resize} pixels to {height} (crop_pct "
            f"{config['crop_pct']}), which is not supported; choose a model with crop_pct <= 1"
        )
    return Preprocess(
        size=height,
        resize=None if resize == height else resize,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=kernel,
    )


def _load_checkpoint(name: str, path: str, model: Any) -> None:
    """Load a local checkpoint as timm loads a download, but without executing code in it.

    Parameters of the classifier that `num_classes=0` removes, and the mask token of masked image
    modelling, are dropped. timm's conversion for the architecture handles other authors' parameter
    names and position embeddings of another length.
    Raises: ValueError, RuntimeError where the tensors do not fit; OSError.
    """
    state: dict[str, torch.Tensor] = read_checkpoint(path).tensors
    wanted = model.state_dict()
    left_out = set(_whole_model(name)) - set(wanted) | {"mask_token"}

    def kept(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t for n, t in found.items() if n in wanted or n not in left_out}

    def fits(found: dict[str, torch.Tensor]) -> bool:
        return set(found) == set(wanted) and all(
            found[n].shape == t.shape for n, t in wanted.items()
        )

    plain = kept(state)
    convert = next((f for n in CONVERSIONS if (f := getattr(_module(model), n, None))), None)
    if not fits(plain) and convert is not None:
        # The conversion expects files of known authors and may fail in any way on another one,
        # for which load_state_dict then reports what does not fit.
        with contextlib.suppress(Exception):
            converted = kept(convert(state, model))
            plain = converted if fits(converted) else plain
    model.load_state_dict(plain, strict=True)


def _module(model: Any) -> Any:
    return sys.modules[type(model).__module__]


def _whole_model(name: str) -> dict[str, torch.Tensor]:
    """The state dictionary of the model with its classifier, on the meta device (no memory)."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False).state_dict()


def _check_tag(spec: str, name: str) -> None:
    """Raises: ValueError where a local checkpoint's preprocessing cannot be known.

    The pretrained tags of one architecture may differ in normalisation, interpolation, crop or
    input size, which nothing in the tensors shows.
    """
    if "." in name:
        return
    by_settings: dict[tuple[Any, ...], str] = {}
    for tagged in timm.list_pretrained(f"{name}.*"):
        config = timm.get_pretrained_cfg(tagged)
        key = tuple(getattr(config, field) for field in SETTINGS)
        by_settings.setdefault(key, tagged)
    if len(by_settings) > 1:
        choices = ", ".join(f"timm:{tagged}:PATH" for tagged in by_settings.values())
        raise ValueError(
            f"teacher `{spec}`: the pretrained tags of {name} differ in preprocessing, and a file "
            f"does not show which it needs; name the tag that it was trained or fine-tuned from: "
            f"{choices}"
        )


def open_timm(argument: str, device: str) -> FrozenTeacher:
    """Open the teacher `timm:ARGUMENT`, with the argument `NAME[:none|PATH]`.

    Random weights (`none`) come from a fixed seed, with a warning on stderr.
    Raises: ValueError for an unknown name, or weights that are missing or do not fit.
    """
    name, source = _parse(argument)
    spec = f"timm:{argument}"
    if source == RANDOM:
        print(
            f"WARNING: teacher {spec} has RANDOM weights: enough to test the pipeline, "
            "but its embeddings mean nothing",
            file=sys.stderr,
        )
    local = source not in ("", RANDOM)
    if local:
        _check_tag(spec, name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = timm.create_model(name, pretrained=not source, num_classes=0)
        if local:
            _load_checkpoint(name, source, model)
    except Exception as error:  # an unknown checkpoint can make timm raise nearly anything
        if local:
            raise ValueError(f"teacher `{spec}`: {mismatch(error, name)}") from None
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        missing = missing_download(argument)
        first = f"no {missing} ({first})" if missing else first
        raise ValueError(
            f"teacher `{spec}`: {first}; without a network, give a checkpoint's path: "
            f"timm:{name}:PATH"
        ) from None
    return FrozenTeacher(spec, model, _preprocess(model, spec), device)


def missing_download(argument: str) -> str | None:
    """A description of what timm would have to download for a teacher, or None."""
    name, source = _parse(argument)
    if source:
        return None
    config = timm.get_pretrained_cfg(name)
    hub = getattr(config, "hf_hub_id", None)
    if not hub:
        return f"weights of {name}"
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(hub, file), str) for file in files):
        return None
    return f"weights of {name} from the hub repository {hub}"


@functools.lru_cache(maxsize=32)
def configured(argument: str) -> tuple[int, int]:
    """(Width of the embeddings, side of the input in pixels), from the architecture alone."""
    name, _ = _parse(argument)
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    size = _preprocess(model, f"timm:{argument}").size
    with torch.inference_mode():
        out = model(torch.zeros(1, 3, size, size, device="meta"))
    return int(out.shape[-1]), size
