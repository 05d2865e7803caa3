"""Specs of open_clip teachers: how they are parsed, and what has to be downloaded for one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

from shards.support.registry import closest
from shards.teachers.libraries import open_clip

RANDOM = "none"
SCHEMAS = ("local-dir", "hf-hub")  # open_clip's schemas of a folder or repository with a config
CONFIG = "open_clip_config.json"
WEIGHTS = (".safetensors", ".bin", ".pth")


class ClipName(NamedTuple):
    """The parts of a spec `open_clip:ARGUMENT`.

    model: a name that open_clip registers, or `local-dir:PATH`, `hf-hub:OWNER/NAME`. tag: one of
    its pretrained tags, RANDOM, or "" where the spec has none. file: a local checkpoint, or "".
    """

    model: str
    tag: str
    file: str


def parse(argument: str) -> ClipName:
    """Parse `NAME:TAG`, `NAME:PATH` or `NAME:TAG@PATH`, with names from open_clip's lists.

    Also `local-dir:PATH` and `hf-hub:OWNER/NAME`, each optionally followed by `:none`.
    Raises: ValueError with close matches, or naming the extra that the model's tokenizer needs.
    """
    name, _, rest = argument.partition(":")
    if name in SCHEMAS:
        return _located(argument, name, rest)
    if not name or not rest:
        raise ValueError(
            f"teacher `open_clip:{argument}`: write open_clip:NAME:TAG, e.g. "
            "open_clip:ViT-B-32:openai (or open_clip:NAME:TAG@PATH for a local checkpoint of that "
            "tag, `none` as TAG for random weights), open_clip:local-dir:PATH or "
            "open_clip:hf-hub:OWNER/NAME"
        )
    models = open_clip.list_models()
    if name not in models:
        near = closest(name, models).split("valid:", maxsplit=1)[0]
        raise ValueError(
            f"teacher `open_clip:{argument}`: unknown model `{name}`; {near}"
            "open_clip.list_models() lists all"
        )
    check_text_library(argument, open_clip.get_model_config(name))
    known = open_clip.list_pretrained_tags_by_model(name)
    if rest == RANDOM or open_clip.is_pretrained_cfg(name, rest):
        return ClipName(name, rest, "")
    if os.path.isfile(rest):
        return ClipName(name, "", rest)
    tag, at, file = rest.partition("@")
    if at and open_clip.is_pretrained_cfg(name, tag):
        if os.path.isfile(file):
            return ClipName(name, tag, file)
        raise ValueError(f"teacher `open_clip:{argument}`: no file {file}")
    raise ValueError(
        f"teacher `open_clip:{argument}`: `{rest}` is neither a file nor a tag of {name}; "
        f"{closest(tag, [*known, RANDOM])}"
    )


class MissingLibraryError(ValueError):
    """A model needs a package that is not installed."""


def check_text_library(argument: str, config: dict[str, Any] | None) -> None:
    """Raises: MissingLibraryError where a text tower needs `transformers`, which is an extra."""
    text = (config or {}).get("text_cfg", {})
    needed = "hf_model_name" in text or "hf_tokenizer_name" in text
    if needed and importlib.util.find_spec("transformers") is None:
        raise MissingLibraryError(
            f"teacher `open_clip:{argument}`: the tokenizer of {argument.partition(':')[0]} needs "
            "the package transformers; pip install 'distilsweep[transformers]'"
        )


def configuration(argument: str, name: str) -> dict[str, Any]:
    """open_clip's configuration of a model. Raises: ValueError where there is none."""
    try:
        config = open_clip.get_model_config(name)
    except (OSError, ValueError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"teacher `open_clip:{argument}`: no configuration ({first})") from None
    if not isinstance(config, dict) or "embed_dim" not in config:
        raise ValueError(
            f"teacher `open_clip:{argument}`: open_clip has no configuration for {name}"
        )
    return config


class TagSettings(NamedTuple):
    """Settings that a tag's weights were trained with, and that its tensors do not reveal."""

    quick_gelu: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def settings_of(model: str, tag: str) -> TagSettings:
    """The activation and preprocessing of a tag; open_clip's defaults where the tag has none."""
    config: Any = open_clip.get_pretrained_cfg(model, tag)
    return TagSettings(
        bool(config.get("quick_gelu", False)),
        tuple(config.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        tuple(config.get("std") or open_clip.OPENAI_DATASET_STD),
        str(config.get("interpolation") or "bicubic"),
    )


def tag_of_file(argument: str, name: ClipName, openai: bool) -> str:
    """The tag whose activation and preprocessing apply to a local checkpoint.

    It is the tag in the spec; else `openai` for an archive that OpenAI published (`openai`); else
    any of the model's tags if all have the same settings; "" for a model without tags.
    Raises: ValueError with the choices where the tags disagree: the same tensors with another
    activation or normalisation give wrong embeddings without any error.
    """
    if name.tag:
        return name.tag
    tags = open_clip.list_pretrained_tags_by_model(name.model)
    if openai and "openai" in tags:
        return "openai"
    by_settings: dict[TagSettings, str] = {}
    for tag in tags:
        by_settings.setdefault(settings_of(name.model, tag), tag)
    if len(by_settings) > 1:
        choices = ", ".join(
            f"open_clip:{name.model}:{tag}@PATH "
            f"({'QuickGELU' if settings.quick_gelu else 'GELU'}, mean {settings.mean[0]:.3g})"
            for settings, tag in by_settings.items()
        )
        raise ValueError(
            f"teacher `open_clip:{argument}`: the pretrained tags of {name.model} differ in "
            f"activation or preprocessing, and a file does not show which it needs; name the tag "
            f"that it was trained or fine-tuned from: {choices}"
        )
    return next(iter(by_settings.values()), "")


def _located(argument: str, schema: str, rest: str) -> ClipName:
    """Parse `local-dir:PATH` and `hf-hub:OWNER/NAME`.

    A folder without weights is an error, although open_clip only warns and uses random ones.
    """
    location = rest.removesuffix(f":{RANDOM}")
    if schema == "local-dir":
        folder = Path(location)
        if not location or not (folder / CONFIG).is_file():
            raise ValueError(f"teacher `open_clip:{argument}`: no file {folder / CONFIG}")
        if location == rest and not any(f.suffix in WEIGHTS for f in folder.iterdir()):
            raise ValueError(
                f"teacher `open_clip:{argument}`: no weights in {folder}; expected a file that "
                f"ends with {', '.join(WEIGHTS)}"
            )
        check_text_library(argument, configuration(argument, f"{schema}:{location}"))
    elif location.count("/") != 1:
        raise ValueError(
            f"teacher `open_clip:{argument}`: write open_clip:hf-hub:OWNER/NAME, a repository "
            f"with {CONFIG}"
        )
    return ClipName(f"{schema}:{location}", "" if location == rest else RANDOM, "")


def missing_download(argument: str) -> str | None:
    """A description of what open_clip would have to download for a teacher, or None."""
    name, tag, local = parse(argument)
    if local:
        return None
    schema, _, repository = name.partition(":")
    if schema == "hf-hub" and tag != RANDOM:
        return None if _cached(repository, "") else f"weights from the hub repository {repository}"
    if tag == RANDOM or not open_clip.is_pretrained_cfg(name, tag):
        return None
    config: Any = open_clip.get_pretrained_cfg(name, tag)
    hub = config.get("hf_hub", "")
    if hub:
        repository, file = os.path.split(hub)
        if _cached(repository, file):
            return None
        return f"weights of {name} ({tag}) from the hub repository {repository}"
    file = os.path.basename(config.get("url", ""))
    cached = os.path.join(os.path.expanduser("~/.cache/clip"), file)
    return None if os.path.isfile(cached) else f"weights of {name} ({tag}), file {file}"


def _cached(repository: str, file: str) -> bool:
    """Whether the hub's local cache has a file; for `file` "", one of open_clip's usual names."""
    from huggingface_hub import try_to_load_from_cache

    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    names += [n[:-4] + ".safetensors" for n in names if n.endswith((".bin", ".pth"))]
    return any(isinstance(try_to_load_from_cache(repository, n), str) for n in names)
