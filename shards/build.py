"""Compute a bank: every image once through its arms and the teacher.

    python -m shards.build --dataset digits --teacher embedded --arm noise:0.1 --views 4 --out bank
    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai \\
        --arm crop_flip --arm noise --views 8 --out s3://bucket/cifar10
    python -m shards.build --dataset folder:photos --image-size 32 --train-samples 2000 \\
        --test-samples 500 --teacher open_clip:ViT-B-32:none --out bank

The clean view is always there, in both splits. The same command again continues a build that
was interrupted, and does nothing when it is complete.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from pydantic import Field, field_validator

from shards import storage
from shards.arms import Arm, make_arm
from shards.command import arguments_of, command
from shards.datasets import SPLITS, Dataset, open_dataset
from shards.format import MANIFEST, PLAN, ArmRecord, DatasetRecord, Manifest, Plan, Strict
from shards.format import TeacherRecord as TeacherEntry
from shards.progress import Progress
from shards.reader import load_manifest
from shards.teachers import Teacher, open_teacher
from shards.threads import check_device, one_core_each
from shards.writer import BankWriter

CPU_BATCH = 32  # images a core takes at a time; larger is no faster, and costs memory


class Request(Strict):
    """What somebody asks a bank to hold. Arms are given in their canonical spelling."""

    dataset: str
    teacher: str
    arms: tuple[str, ...] = ()
    views: int = Field(default=1, ge=1, le=4096)
    test_arms: tuple[str, ...] = ()
    test_views: int = Field(default=1, ge=1, le=4096)
    image_size: int | None = Field(default=None, ge=1, le=4096)
    train_samples: int | None = None
    test_samples: int | None = None
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=256, ge=1)
    shard_samples: int = Field(default=1000, ge=1)

    @field_validator("arms", "test_arms")
    @classmethod
    def _canonical(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(make_arm(s).spec for s in specs if make_arm(s).stochastic))

    def arm_records(self, split: str) -> tuple[ArmRecord, ...]:
        """The clean view first, then `views` views of each arm."""
        specs, views = (
            (self.arms, self.views) if split == "train" else (self.test_arms, self.test_views)
        )
        records, at = [], 0
        for spec, count in [("clean", 1), *((s, views) for s in specs)]:
            arm = make_arm(spec)
            records.append(
                ArmRecord(
                    arm=arm.spec,
                    columns=arm.columns,
                    options=arm.options,
                    start=at,
                    stop=at + count,
                )
            )
            at += count
        return tuple(records)


def make_plan(request: Request, dataset: Dataset, teacher: Teacher) -> Plan:
    return Plan(
        dataset=DatasetRecord(
            spec=dataset.spec,
            identity=dataset.identity,
            image_size=dataset.image_size,
            classes=dataset.classes,
            train_samples=request.train_samples,
            test_samples=request.test_samples,
            counts={split: dataset.count(split) for split in SPLITS},
        ),
        teachers=(
            TeacherEntry(
                spec=teacher.spec,
                weights_sha256=teacher.weights_sha256,
                dim=teacher.dim,
                parameters=teacher.parameters,
                preprocess=teacher.preprocess,
            ),
        ),
        arms={split: request.arm_records(split) for split in SPLITS},
        seed=request.seed,
        shard_samples=request.shard_samples,
        batch=request.batch,
        precision="fp32",
    )


def build(request: Request, out: str, device: str = "cpu") -> Manifest:
    """Build, or finish, the bank at `out`. Errors: ValueError, OSError."""
    check_device(device)
    if storage.exists(storage.join(out, MANIFEST)):
        return _existing(request, out)
    with storage.exclusive(out, "bank"):
        dataset = open_dataset(
            request.dataset, request.image_size, request.train_samples, request.test_samples
        )
        teacher = open_teacher(request.teacher, device)
        plan = make_plan(request, dataset, teacher)
        writer = BankWriter(out, plan)
        start = time.monotonic()
        passes = sum(dataset.count(s) * plan.arms[s][-1].stop for s in SPLITS)
        done = 0
        with Progress(f"teacher {request.teacher}", passes) as bar:
            for split in SPLITS:
                views = plan.arms[split][-1].stop
                for index, at in enumerate(range(0, dataset.count(split), plan.shard_samples)):
                    stop = min(at + plan.shard_samples, dataset.count(split))
                    if writer.has(split, index):
                        done += (stop - at) * views
                        bar.resume_at(done)
                        continue
                    arrays, keys = _shard(plan, dataset, teacher, split, at, stop, device, bar)
                    writer.publish(split, index, arrays, keys)
                    done += (stop - at) * views
                    bar.update(done, f"{split} shard {index}")
        return writer.finish(_created(device, time.monotonic() - start))


def _existing(request: Request, out: str) -> Manifest:
    """A finished bank is left as it is if it is the one asked for."""
    manifest = load_manifest(out)
    plan = manifest.plan
    there = Request(
        dataset=plan.dataset.spec,
        teacher=plan.teachers[0].spec,
        arms=tuple(a.arm for a in plan.arms["train"]),
        views=plan.arms["train"][-1].stop - plan.arms["train"][-1].start,
        test_arms=tuple(a.arm for a in plan.arms["test"]),
        test_views=plan.arms["test"][-1].stop - plan.arms["test"][-1].start,
        image_size=request.image_size and plan.dataset.image_size,
        train_samples=plan.dataset.train_samples,
        test_samples=plan.dataset.test_samples,
        seed=plan.seed,
        batch=plan.batch,
        shard_samples=plan.shard_samples,
    )
    mine = request.model_dump() | ({} if request.arms else {"views": 1})
    mine |= {} if request.test_arms else {"test_views": 1}
    for field, asked in mine.items():
        if getattr(there, field) != asked:
            raise ValueError(
                f"{out} holds a bank with {field} = {getattr(there, field)!r}; {asked!r} was "
                "asked for; choose another folder"
            )
    return manifest


def _shard(
    plan: Plan,
    dataset: Dataset,
    teacher: Teacher,
    split: str,
    at: int,
    stop: int,
    device: str,
    bar: Progress,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns of one shard: samples `at` to `stop` of `split`."""
    block = dataset.read(split, at, stop)
    images_NCHW = torch.from_numpy(block.images_NHWC.copy()).permute(0, 3, 1, 2).contiguous()
    arms = [(make_arm(r.arm), r) for r in plan.arms[split]]
    n, views = stop - at, arms[-1][1].stop
    width = max(len(arm.columns) for arm, _ in arms)
    params_NVP = np.zeros((n, views, width), dtype=np.int64)
    embedding_NVD = np.empty((n, views, teacher.dim), dtype=np.float16)
    norm_NV = np.empty((n, views), dtype=np.float32)
    for arm, record in arms:
        drawn = arm.draw(plan.seed, block.keys, record.stop - record.start)
        params_NVP[:, record.start : record.stop, : len(arm.columns)] = drawn
        for view in range(record.start, record.stop):
            raw_ND = _embed(plan, teacher, arm, images_NCHW, params_NVP[:, view], device, bar)
            norm_N = np.linalg.norm(raw_ND, axis=1)
            if not (np.isfinite(raw_ND).all() and (norm_N > 0).all()):
                bad = int(np.argmax(~np.isfinite(raw_ND).all(axis=1) | ~(norm_N > 0)))
                raise ValueError(
                    f"teacher {teacher.spec}: the embedding of sample `{block.keys[bad]}` (arm "
                    f"{arm.spec}) is not finite or has norm 0; nothing of this shard was written"
                )
            embedding_NVD[:, view] = raw_ND / norm_N[:, None]
            norm_NV[:, view] = norm_N
    arrays = {
        "image": block.images_NHWC,
        "label": block.labels_N,
        "params": params_NVP,
        "embedding.0": embedding_NVD,
        "norm.0": norm_NV,
    }
    return arrays, block.keys


def _embed(
    plan: Plan,
    teacher: Teacher,
    arm: Arm,
    images_NCHW: torch.Tensor,
    params_NP: np.ndarray,
    device: str,
    bar: Progress,
) -> np.ndarray:
    """One view of a block through the teacher, in fixed batches: float32 (N, D)."""
    step = min(plan.batch, CPU_BATCH) if torch.device(device).type == "cpu" else plan.batch

    def one(i: int) -> torch.Tensor:
        params_BP = torch.from_numpy(params_NP[i : i + step]).to(device)
        pixels = arm.pixels(images_NCHW[i : i + step].to(device), params_BP)
        inputs = arm.normalised(teacher.preprocess(pixels), params_BP)
        return teacher.embed(inputs).cpu()

    parts = []
    with one_core_each(device) as each:
        for part in each(one, range(0, len(images_NCHW), step)):
            parts.append(part)
            bar.update(bar.done + len(part))
    return torch.cat(parts).numpy()


def _created(device: str, seconds: float) -> dict[str, str]:
    libraries = ("torch", "numpy", "open_clip_torch", "pillow", "scikit-learn")
    return {
        "command": " ".join(sys.argv),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "seconds": f"{seconds:.1f}",
        **{name: version(name) for name in libraries},
    }


def request_arguments(request: Request, out: str) -> list[str]:
    """The command line that makes `build` do `request` in a process of its own."""
    return ["--request", request.model_dump_json(), "--out", out]


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m shards.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", metavar="SPEC", help="digits, cifar10, cifar100, folder:DIR")
    parser.add_argument("--teacher", metavar="SPEC", help="embedded, open_clip:NAME:TAG")
    parser.add_argument("--arm", action="append", default=[], metavar="SPEC", dest="arms")
    parser.add_argument("--views", type=int, help="views of each training arm (default 1)")
    parser.add_argument("--test-arm", action="append", default=[], metavar="SPEC", dest="test_arms")
    parser.add_argument("--test-views", type=int, help="views of each test arm (default 1)")
    parser.add_argument("--image-size", type=int, metavar="S")
    parser.add_argument("--train-samples", type=int, metavar="N", help="a class-balanced subset")
    parser.add_argument("--test-samples", type=int, metavar="N")
    parser.add_argument("--seed", type=int, help="of every augmentation draw (default 0)")
    parser.add_argument("--batch", type=int, help="teacher batch (default 256)")
    parser.add_argument("--shard-samples", type=int, help="samples a shard (default 1000)")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    parser.add_argument("--out", required=True, metavar="DIR-OR-URL")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    fields = {k: v for k, v in vars(options).items() if k in Request.model_fields and v is not None}
    if options.request:
        fields = json.loads(options.request)
    elif not options.dataset or not options.teacher:
        parser.error("--dataset and --teacher are required")
    manifest = build(arguments_of(Request, fields), options.out, options.device)
    total = sum(shard.bytes for shard in manifest.shards)
    print(f"{options.out}: {len(manifest.shards)} shards, {total:,} bytes, {PLAN} and {MANIFEST}")
    print(f"identity {manifest.identity[:16]}; check with: python -m shards.verify {options.out}")
    return 0


if __name__ == "__main__":
    main()
