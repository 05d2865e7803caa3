"""One trial, start to end: the one place that puts the pieces together.

    python -m trainers.trial TRIAL.yaml --bank bank --out runs/one
    torchrun --nproc-per-node 2 -m trainers.trial TRIAL.yaml --bank bank --out runs/one

TRIAL.yaml holds the fields of trainers.config.TrialConfig. The result is OUT/trials/<identity>/
result.json; the same command again prints it without training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shards import storage
from shards.arms import make_arm
from shards.command import command
from shards.format import Manifest, arm_record
from shards.progress import Progress
from shards.reader import load_manifest
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig, load_config, make_config
from trainers.data import ResidentData
from trainers.engines import ENGINES, choose_device
from trainers.engines.launch import launch, report_line
from trainers.loop import Reporter, Saver, train
from trainers.measure import Banks, load_banks, measure, measure_teacher, student_features
from trainers.objectives import OBJECTIVES
from trainers.students import build_student, count_macs, count_parameters, save_student

FORMAT = "trial-result/1"
RESULT = "result.json"


def trial_place(root: str, config: TrialConfig) -> str:
    return storage.join(root, "trials", config.identity)


def finished(root: str, config: TrialConfig) -> dict[str, Any] | None:
    """The result of a finished trial, or None."""
    place = storage.join(trial_place(root, config), RESULT)
    return json.loads(storage.read(place)) if storage.exists(place) else None


def check_bank(config: TrialConfig, manifest: Manifest, place: str) -> None:
    """Errors: ValueError with both values where the shards are not those the trial asks for."""
    plan = manifest.plan
    pairs = {
        "dataset": (plan.dataset.spec, config.dataset),
        "teacher": (plan.teachers[0].spec, config.teacher),
        "data_seed": (plan.seed, config.data_seed),
        "train_samples": (plan.dataset.train_samples, config.train_samples),
        "test_samples": (plan.dataset.test_samples, config.test_samples),
        "image_size": (plan.dataset.image_size, config.image_size or plan.dataset.image_size),
    }
    for field, (there, asked) in pairs.items():
        if there != asked:
            raise ValueError(f"{field}: the shards in {place} have {there!r}, asked for {asked!r}")
    record = arm_record(manifest, "train", config.arm)
    views = record.stop - record.start
    if views != config.views:
        raise ValueError(
            f"views: the shards in {place} have {views} of arm {config.arm}, asked for "
            f"{config.views}"
        )
    if plan.dataset.counts["train"] < config.batch_size:
        raise ValueError(
            f"batch_size: {config.batch_size} is more than the {plan.dataset.counts['train']} "
            "train samples"
        )


def source_of(config: TrialConfig, manifest: Manifest) -> str:
    """sha256 of what the trial reads: data set, teacher weights, preprocessing, its arms, draws.

    Banks that differ only in other arms have the same source for a trial.
    """
    plan = manifest.plan
    arms = [*(("train", a) for a in ("clean", config.arm)), ("test", "clean")]
    chosen = [arm_record(manifest, split, arm) for split, arm in arms]
    parts = [
        plan.dataset.model_dump_json(),
        plan.teachers[0].model_dump_json(),
        *(f"{a.arm} {a.columns} {sorted(a.options.items())} {a.stop - a.start}" for a in chosen),
        f"{plan.seed} {plan.precision} {plan.format}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_trial(
    config: TrialConfig,
    bank: str,
    root: str,
    report: Reporter = lambda values: None,
    device: str = "auto",
    save_seconds: float = 30.0,
) -> dict[str, Any]:
    """Train and measure; the result, also written last of all. Finished trials only return it.

    Errors: ValueError for inputs that do not fit, DivergedError, OSError.
    """
    manifest = load_manifest(bank)
    done = finished(root, config)
    if done is not None:
        if done["source"] != source_of(config, manifest):
            raise ValueError(
                f"{trial_place(root, config)}: finished on other images, draws or teacher weights "
                f"({done['source'][:16]}) than the shards in {bank} hold "
                f"({source_of(config, manifest)[:16]}); choose another --out or delete it"
            )
        return done
    check_bank(config, manifest, bank)
    if config.engine != "single" and "RANK" not in os.environ:
        arguments = ["--config", config.model_dump_json(), "--bank", bank, "--out", root]
        arguments += ["--device", device, "--save-seconds", str(save_seconds)]
        launch(config.ranks, arguments, report)
        result = finished(root, config)
        if result is None:
            raise RuntimeError("the ranks ended well but left no result")
        return result
    chosen = choose_device(device)
    torch.set_num_threads(config.threads)
    banks = load_banks(bank, manifest, config)
    with ENGINES[config.engine](chosen) as engine:
        if engine.ranks != config.ranks:
            raise ValueError(f"ranks: {engine.ranks} were started, asked for {config.ranks}")
        preprocess = manifest.plan.teachers[0].preprocess
        if config.input == "native":
            preprocess = preprocess.native(manifest.plan.dataset.image_size)
        dim = manifest.plan.teachers[0].dim
        model = build_student(config.student, dim, preprocess.size, config.seed)
        model = model.to(engine.device)
        place = trial_place(root, config)
        checkpoints = Checkpoints(storage.join(place, "checkpoints"), config.identity)
        data = ResidentData(banks.train, make_arm(config.arm), preprocess, engine.device)
        saver = Saver(checkpoints, save_seconds)
        objective = OBJECTIVES[config.objective]
        curve = train(config, model, objective, data, engine, saver, report)
        if engine.rank > 0:
            return {}
        features = student_features(model, banks, config, preprocess, engine.device)
        metrics, arrays = measure(features, config, "test")
        teacher, teacher_arrays = measure_teacher(banks, config, root)
        result = {
            "format": FORMAT,
            "id": config.identity,
            "config": config.model_dump(mode="json"),
            "source": source_of(config, manifest),
            "weights_sha256": manifest.plan.teachers[0].weights_sha256,
            "student": _describe(config, model, preprocess.size),
            "data": _data(banks, config),
            "metrics": metrics,
            "teacher": teacher,
            "arrays": arrays | teacher_arrays,
            "curve": curve,
            "environment": _environment(engine.device, config),
        }
        _save_student(place, model, config, dim, preprocess.size)
        storage.write_json(storage.join(place, RESULT), result)
        checkpoints.clear()
        return result


def _describe(config: TrialConfig, model: nn.Module, size: int) -> dict[str, Any]:
    count = count_parameters(model)  # type: ignore[arg-type]
    return {
        "spec": config.student,
        "trunk": count.trunk,
        "head": count.head,
        "total": count.total,
        "macs": count_macs(model, size),
        "image_size": size,
    }


def _data(banks: Banks, config: TrialConfig) -> dict[str, Any]:
    plan = banks.manifest.plan
    return {
        "train": plan.dataset.counts["train"],
        "test": plan.dataset.counts["test"],
        "classes": len(plan.dataset.classes),
        "chance": 1 / len(plan.dataset.classes),
        "dim": plan.teachers[0].dim,
        "views_per_sample": config.views,
    }


def _environment(device: torch.device, config: TrialConfig) -> dict[str, Any]:
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "device": accelerator or "cpu",
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": config.threads,
    }


def _save_student(place: str, model: nn.Module, config: TrialConfig, dim: int, size: int) -> None:
    """student/ in the trial's place: safetensors and the JSON that rebuilds it."""
    with tempfile.TemporaryDirectory() as folder:
        save_student(folder, model, config.student, dim, size)
        files = {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir(), reverse=True)}
    storage.write_folder(storage.join(place, "student"), files)


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m trainers.trial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trial", nargs="?", metavar="TRIAL.yaml")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--bank", required=True, metavar="DIR-OR-URL", help="from shards.build")
    parser.add_argument("--out", default="runs/trial", metavar="DIR-OR-URL")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--save-seconds", type=float, default=30.0, help="between checkpoints")
    options = parser.parse_args(argv)
    if not options.trial and not options.config:
        parser.error("TRIAL.yaml is required")
    if options.config:
        config = make_config(json.loads(options.config))
    else:
        config = load_config(options.trial)
    start = time.monotonic()
    ranked = int(os.environ.get("RANK", "-1"))
    with Progress(f"trial {config.identity}", config.epochs) as bar:

        def report(values: dict[str, Any]) -> None:
            if options.config and ranked == 0:
                print(report_line(values), flush=True)
            bar.update(values["epoch"], f"epoch {values['epoch']}, loss {values['loss']:.4f}")

        result = run_trial(
            config, options.bank, options.out, report, options.device, options.save_seconds
        )
    if result and not options.config:
        for name, value in sorted(result["metrics"].items()):
            reference = result["teacher"].get(name.replace("test/", "teacher/", 1))
            beside = "" if reference is None else f"   teacher {reference:.4f}"
            print(f"{name:36s} {value:.4f}{beside}")
        print(f"{storage.join(trial_place(options.out, config), RESULT)}")
        print(f"{time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    main()
