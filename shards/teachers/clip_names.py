"""Names of teachers that open_clip builds, resolved; what would have to be downloaded for one."""

from __future__ import annotations

import os
from pathlib import Path

import open_clip

from shards.support.registry import closest

RANDOM = "none"
SCHEMAS = ("local-dir", "hf-hub")  # open_clip's own: a folder or repository with its config
CONFIG = "open_clip_config.json"
WEIGHTS = (".safetensors", ".bin", ".pth")


def parse(argument: str) -> tuple[str, str]:
    """`NAME:TAG` -> (NAME, TAG), both resolved against open_clip's lists.

    `local-dir:PATH` and `hf-hub:REPOSITORY`, which name weights too, -> (itself, "" or `none`).
    """
    name, _, tag = argument.partition(":")
    if name in SCHEMAS:
        return _located(argument, name, tag)
    if not name or not tag:
        raise ValueError(
            f"teacher `open_clip:{argument}`: write open_clip:NAME:TAG, e.g. "
            "open_clip:ViT-B-32:openai (TAG may be a checkpoint's path, or `none`), "
            "open_clip:local-dir:PATH or open_clip:hf-hub:REPOSITORY"
        )
    models = open_clip.list_models()
    if name not in models:
        near = closest(name, models).split("valid:", maxsplit=1)[0]
        raise ValueError(
            f"teacher `open_clip:{argument}`: unknown model `{name}`; {near}"
            "open_clip.list_models() lists all"
        )
    known = open_clip.list_pretrained_tags_by_model(name)
    if tag != RANDOM and not open_clip.is_pretrained_cfg(name, tag) and not os.path.isfile(tag):
        raise ValueError(
            f"teacher `open_clip:{argument}`: `{tag}` is neither a file nor a tag of {name}; "
            f"{closest(tag, [*known, RANDOM])}"
        )
    return name, tag


def _located(argument: str, schema: str, rest: str) -> tuple[str, str]:
    """A folder must hold what open_clip would do without: it only warns where weights are not."""
    place = rest.removesuffix(f":{RANDOM}")
    if schema == "local-dir":
        folder = Path(place)
        if not place or not (folder / CONFIG).is_file():
            raise ValueError(f"teacher `open_clip:{argument}`: no file {folder / CONFIG}")
        if place == rest and not any(f.suffix in WEIGHTS for f in folder.iterdir()):
            raise ValueError(
                f"teacher `open_clip:{argument}`: no weights in {folder}; expected a file that "
                f"ends with {', '.join(WEIGHTS)}"
            )
    elif place.count("/") != 1:
        raise ValueError(
            f"teacher `open_clip:{argument}`: write open_clip:hf-hub:OWNER/NAME, a repository "
            f"with {CONFIG}"
        )
    return f"{schema}:{place}", "" if place == rest else RANDOM


def missing_download(argument: str) -> str | None:
    """A line that says what open_clip would have to download for a teacher, or None."""
    name, tag = parse(argument)
    schema, _, repository = name.partition(":")
    if schema == "hf-hub" and tag != RANDOM:
        return None if _cached(repository, "") else f"weights from the hub repository {repository}"
    if tag == RANDOM or not open_clip.is_pretrained_cfg(name, tag):
        return None
    config = open_clip.get_pretrained_cfg(name, tag)
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
    """Whether the hub's cache has the weights; `file` "": under any of open_clip's names."""
    from huggingface_hub import try_to_load_from_cache

    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    names += [n[:-4] + ".safetensors" for n in names if n.endswith((".bin", ".pth"))]
    return any(isinstance(try_to_load_from_cache(repository, n), str) for n in names)
