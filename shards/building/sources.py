"""Check that a bank's local source files, weights and images, are still those it was built from."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from shards.bank.manifest import DatasetRecord, Manifest
from shards.datasets import data_root, open_dataset
from shards.datasets.cifar import is_present
from shards.support import storage
from shards.support.registry import split_spec
from shards.teachers import local_weights_sha256


def check_sources(manifest: Manifest, location: str) -> None:
    """Compare local checkpoints and local images with the manifest of the bank at `location`.

    Nothing is downloaded; files that are not on this machine are skipped.
    Raises: ValueError with both hashes where weights or images were replaced.
    """
    for teacher in manifest.plan.teachers:
        found = local_weights_sha256(teacher.spec)
        if found not in (None, teacher.weights_sha256):
            raise ValueError(
                f"{location}: weights_sha256 of teacher {teacher.spec} is "
                f"{teacher.weights_sha256[:16]}..., the file now gives {found[:16]}...; choose "
                "another folder or delete this one"
            )
    if _is_local(manifest.plan.dataset.spec):
        check_images(manifest, location)


def check_images(manifest: Manifest, location: str) -> None:
    """Compare the data set with the manifest of the bank at `location`.

    Raises: ValueError with both identities where the data set has changed; as `open_dataset`.
    """
    data = manifest.plan.dataset
    found = _identity(data, data.image_size)
    if found != data.identity and _identity_without_size(data) != data.identity:
        raise ValueError(
            f"{location}: identity of data set {data.spec} is {data.identity[:16]}..., the images "
            f"now give {found[:16]}...; choose another folder or delete this one"
        )


def _identity(data: DatasetRecord, image_size: int | None) -> str:
    return open_dataset(data.spec, image_size, data.train_samples, data.test_samples).identity


def _identity_without_size(data: DatasetRecord) -> str | None:
    """The data set's identity without a requested size; for some data sets it differs.

    Both are tried, because the manifest records the size of the images but not whether it was
    requested.
    """
    with contextlib.suppress(ValueError):
        return _identity(data, None)
    return None


def is_readable(spec: str) -> bool:
    """Whether a data set can be read on this machine without downloading it first."""
    name, argument = split_spec(spec)
    if name in ("cifar10", "cifar100"):
        return is_present(name, data_root())
    remote = name == "wds" and not storage.is_local(argument)
    return remote or name not in ("folder", "wds", "hf") or _is_local(spec)


def _is_local(spec: str) -> bool:
    """Whether a data set consists of the user's files and they are on this machine."""
    name, argument = split_spec(spec)
    if name == "wds" and storage.is_local(argument):
        before = re.split(r"[{*?\[]", argument)[0]
        return storage.local_path(before.rpartition("/")[0] or ".").is_dir()
    root = {"folder": argument, "hf": argument.split(":")[0]}.get(name)
    return bool(root) and Path(root).is_dir()
