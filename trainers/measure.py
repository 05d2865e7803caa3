"""From a trained student and its bank to the FeatureBank of both, and through the probes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from shards import storage
from shards.arms import make_arm
from shards.format import Manifest, arm_record
from shards.preprocess import Preprocess
from shards.splits import Split, load_splits, split_bytes
from trainers.config import TrialConfig
from trainers.data import Data, fits
from trainers.probes import run_probes
from trainers.probes.features import FeatureBank, unit

BATCH = 100
VERSION = "probes/2"


@dataclass(frozen=True)
class Banks:
    """The splits a trial reads: its own arm, and what the probes need."""

    manifest: Manifest
    train: Split
    clean_train: Split
    test: dict[str, Split]


def load_banks(
    location: str,
    manifest: Manifest,
    config: TrialConfig,
    device: torch.device,
    reading: str = "auto",
) -> Banks:
    """One pass over the train shards and one over the test shards.

    `reading` is resident, streaming, or auto: resident where it fits. It changes no result.
    """
    index = manifest.plan.teacher_index(config.teacher)
    have = {record.arm for record in manifest.plan.arms["test"]}
    arms = {
        "train": tuple(dict.fromkeys(("clean", config.arm))),
        "test": tuple(dict.fromkeys(("clean", *(a for a in config.test_arms if a in have)))),
    }
    needed = sum(split_bytes(manifest, split, arms[split], index) for split in arms)
    streaming = reading == "streaming" or (reading == "auto" and not fits(needed, device))
    train, test = (
        load_splits(location, manifest, split, arms[split], index, streaming) for split in arms
    )
    return Banks(manifest, train[config.arm], train["clean"], test)


@torch.inference_mode()
def embed(model: nn.Module, data: Data, view: int) -> np.ndarray:
    """Unit embeddings of one view of every sample, float32 (N, D)."""
    parts = [model(images_BCHW).float().cpu() for images_BCHW in data.view(view, BATCH)]
    return unit(torch.cat(parts).numpy())


def _stored(split: Split, view: int) -> np.ndarray:
    return unit(split.embedding_NVD[:, view])


def _drawn(banks: Banks, config: TrialConfig, spec: str) -> Split:
    """The clean test images with fresh draws of `spec`: those a bank would have stored."""
    clean = banks.test["clean"]
    arm = make_arm(spec)
    params_NVP = arm.draw(banks.manifest.plan.seed, clean.keys, config.test_views)
    return Split(
        clean.keys,
        clean.images_NHWC,
        clean.labels_N,
        params_NVP,
        clean.embedding_NVD,
        clean.norm_NV,
    )


def student_features(
    model: nn.Module,
    banks: Banks,
    config: TrialConfig,
    preprocess: Preprocess,
    device: torch.device,
) -> FeatureBank:
    """Clean train and test embeddings, and the test images under every corruption."""
    model.eval()
    clean = make_arm("clean")
    test = banks.test["clean"]
    noisy: dict[str, np.ndarray] = {}
    for spec in config.test_arms:
        arm = make_arm(spec)
        data = Data(_drawn(banks, config, spec), arm, preprocess, device)
        views = [embed(model, data, view) for view in range(config.test_views)]
        noisy[arm.metric] = np.stack(views)
    return FeatureBank(
        train_ND=embed(model, Data(banks.clean_train, clean, preprocess, device), 0),
        train_labels_N=banks.clean_train.labels_N,
        test_ND=embed(model, Data(test, clean, preprocess, device), 0),
        test_labels_N=test.labels_N,
        noisy=noisy,
        teacher_ND=_stored(test, 0),
    )


def teacher_features(banks: Banks, config: TrialConfig) -> FeatureBank:
    """The stored embeddings in the student's place; corruptions where the bank has them."""
    test = banks.test["clean"]
    noisy = {}
    for spec in config.test_arms:
        if spec in banks.test:
            place = arm_record(banks.manifest, "test", spec)
            views = range(min(config.test_views, place.stop - place.start))
            noisy[make_arm(spec).metric] = np.stack([_stored(banks.test[spec], v) for v in views])
    return FeatureBank(
        train_ND=_stored(banks.clean_train, 0),
        train_labels_N=banks.clean_train.labels_N,
        test_ND=_stored(test, 0),
        test_labels_N=test.labels_N,
        noisy=noisy,
        teacher_ND=_stored(test, 0),
    )


@dataclass(frozen=True)
class Measured:
    """What the probes gave: finite numbers, and in `undefined` the names of all others.

    JSON has no NaN, so a measure without a value is named and left out.
    """

    metrics: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def measure(bank: FeatureBank, config: TrialConfig, prefix: str) -> Measured:
    """Run the trial's probes with as many BLAS threads as the trial declares."""
    with threadpool_limits(config.threads):
        metrics, arrays = run_probes(config.probes, bank, prefix)
    undefined = [name for name, value in (metrics | arrays).items() if not np.isfinite(value).all()]
    return Measured(
        {name: value for name, value in metrics.items() if name not in undefined},
        {name: value for name, value in arrays.items() if name not in undefined},
        undefined,
    )


def measure_teacher(banks: Banks, config: TrialConfig, root: str) -> Measured:
    """The teacher through the same probes; computed once a bank and probe settings, then kept."""
    settings = [
        VERSION,
        banks.manifest.identity,
        config.probes,
        config.test_arms,
        config.test_views,
        config.threads,
    ]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    place = storage.join(root, "teacher", f"{name}.json")
    if storage.exists(place):
        return Measured(**json.loads(storage.read(place)))
    measured = measure(teacher_features(banks, config), config, "teacher")
    storage.write_json(place, asdict(measured))
    return measured
