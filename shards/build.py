"""Compute a bank: every image once through its arms and the teachers.

    python -m shards.build --dataset digits --teacher embedded --arm noise:0.1 --views 4 --out bank
    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai \\
        --arm crop_flip --arm noise --views 8 --out s3://bucket/cifar10
    python -m shards.build --dataset folder:photos --image-size 32 --train-samples 2000 \\
        --test-samples 500 --teacher open_clip:ViT-B-32:none --out bank --dry-run

The clean view is always there, in both splits. The same command again continues a build that
was interrupted, and does nothing when it is complete.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import torch

from shards.arms import describe_arms
from shards.arms.groups import describe_groups
from shards.bank.manifest import MANIFEST, PLAN, Manifest, Plan
from shards.bank.reader import load_manifest
from shards.bank.writer import BankWriter, read_plan
from shards.building.embed import Computes, Embedder, Task, tasks_of
from shards.building.estimate import Spread, plan_bytes, print_cost
from shards.building.request import Request, check_serves
from shards.building.sources import check_sources
from shards.building.teacher_robustness import DEFAULT, add_robustness, missing_arms
from shards.datasets import DATASETS
from shards.support import lock, storage
from shards.support.command import CommandParser, command, make_parser
from shards.support.progress import Progress
from shards.support.schema import validated
from shards.support.threads import check_device, prefetch
from shards.teachers import Precision
from shards.teachers.prompts import load_templates


def build(
    request: Request,
    out: str,
    device: str = "cpu",
    workplace: Callable[[Request, str, dict[str, Precision]], Computes] = Embedder,
) -> Manifest:
    """Build, or finish, the bank at `out`; `workplace` computes it, by default this process.

    A finished bank is left as it is, but for figures of the teachers' robustness that it lacks.
    Raises: ValueError, OSError.
    """
    manifest = _finished(request, out)
    if manifest and not missing_arms(request, manifest):
        return manifest
    if workplace is Embedder:
        check_device(device)
    with lock.exclusive(out, "bank"):
        manifest = _finished(request, out)  # by another build, meanwhile
        if manifest and not missing_arms(request, manifest):
            return manifest
        plan = manifest.plan if manifest else _begun(out, device)
        teachers = plan.teachers if plan else ()
        place = workplace(request, device, {each.spec: each.precision for each in teachers})
        if manifest is None:
            writer = BankWriter(out, place.plan)
            _check_space(place.plan, writer)
            start = time.monotonic()
            rates = _compute(request, place, writer)
            created = _created(device, time.monotonic() - start) | rates
            manifest = writer.finish(place.class_embeddings(), created)
        return add_robustness(out, manifest, request, place)


def _finished(request: Request, out: str) -> Manifest | None:
    """The bank at `out`, if it is complete. Raises: ValueError where it is not what is asked."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    manifest = load_manifest(out)
    check_serves(request, manifest, out)
    check_sources(manifest, out)
    return manifest


def _begun(out: str, device: str) -> Plan | None:
    """The plan to go on with. Raises: ValueError where it was made for another device."""
    plan, kind = read_plan(out), torch.device(device).type
    if plan is not None and plan.device != kind:
        raise ValueError(
            f"{out} holds other shards: device is {plan.device}, asked for {kind}; go on with "
            f"--device {plan.device}, or choose another folder"
        )
    return plan


def _check_space(plan: Plan, writer: BankWriter) -> None:
    """Raises: ValueError, before anything is computed, where the disk cannot hold the bank."""
    if not storage.is_local(writer.location):
        return
    needed = plan_bytes(plan) - writer.bytes_there
    free = shutil.disk_usage(storage.local_path(writer.location)).free
    if needed > free:
        raise ValueError(
            f"{writer.location}: {needed:,} bytes needed for the shards, {free:,} bytes free; "
            "choose fewer views or another disk"
        )


def _compute(request: Request, place: Computes, writer: BankWriter) -> dict[str, str]:
    """Compute and publish what is to do; the rates that were reached."""
    plan = place.plan
    todo = [task for task in tasks_of(plan) if not writer.has(task.split, task.index)]
    passes = {split: request.teacher_views(split) * len(plan.teachers) for split in plan.arms}
    total = sum(passes[split] * plan.dataset.counts[split] for split in plan.arms)
    left = sum(passes[task.split] * (task.stop - task.start) for task in todo)
    with Progress(f"teacher {', '.join(request.teachers)}", total) as bar:
        bar.resume_at(total - left)
        start = time.monotonic()
        _publish(place.shards(todo, lambda images: bar.update(bar.done + images)), writer, bar)
        seconds = time.monotonic() - start
    if not left:
        return {}
    rates = {"images/s": f"{left / seconds:.1f}"}
    if place.teacher_seconds:
        rates["teacher alone, images/s"] = f"{left / place.teacher_seconds:.1f}"
    return rates


def _publish(shards: Iterator[tuple[Task, bytes]], writer: BankWriter, bar: Progress) -> None:
    """Write each shard while the next one is computed."""

    def publish(item: tuple[Task, bytes]) -> Task:
        task, data = item
        writer.publish(task.split, task.index, task.stop - task.start, data)
        return task

    with ThreadPoolExecutor(1) as pool:
        for task in prefetch(pool, publish, shards, depth=1):
            bar.note = f"{task.split} shard {task.index}"


def _created(device: str, seconds: float) -> dict[str, str]:
    libraries = ("torch", "numpy", "open_clip_torch", "timm", "pillow", "scikit-learn")
    return {
        "command": " ".join(sys.argv),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "seconds": f"{seconds:.1f}",
        **{name: found for name in libraries if (found := _version(name))},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def request_arguments(request: Request, out: str) -> list[str]:
    """The command line that makes `build` do `request` in a process of its own."""
    return ["--request", request.model_dump_json(), "--out", out]


def _parser() -> CommandParser:
    arms = [*describe_arms(), *describe_groups()]
    epilog = f"data sets: {', '.join(DATASETS)}\n\narms:\n"
    epilog += "\n".join(f"  {spec:28s} {meaning}" for spec, meaning in arms)
    parser = make_parser("shards.build", __doc__, epilog)
    add = parser.add_argument
    add("--dataset", metavar="SPEC", help="digits, cifar10, folder:DIR, wds:PATTERN, ...")
    add("--teacher", action="append", metavar="SPEC", dest="teachers", help="may be repeated")
    add("--arm", action="append", metavar="SPEC", dest="arms", help="may be repeated")
    add("--views", type=int, metavar="K", help="views of each training arm (default 1)")
    add("--test-arm", action="append", metavar="SPEC", dest="test_arms")
    add("--test-views", type=int, metavar="K", help="views of each test arm (default 1)")
    add(
        "--teacher-robustness",
        nargs="*",
        metavar="SPEC",
        help="figures of the teachers under these arms, over --test-views draws, kept in the "
        f"manifest (default: {' '.join(DEFAULT)})",
    )
    add("--image-size", type=int, metavar="S")
    add("--train-samples", type=int, metavar="N", help="a class-balanced subset")
    add("--test-samples", type=int, metavar="N")
    add("--templates", metavar="FILE", help="prompts, one a line, with {} for the class")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), help="of the teachers' arithmetic")
    add("--seed", type=int, help="of every augmentation draw (default 0)")
    add("--batch", type=int, help="teacher batch (default 256)")
    add("--shard-samples", type=int, help="samples a shard (default 1000)")
    add("--request", help=argparse.SUPPRESS)
    add("--out", required=True, metavar="DIR-OR-URL")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--dry-run", action="store_true", help="bytes, seconds and money; nothing is written")
    add("--gpu-price", type=float, metavar="PER_HOUR", help="with --dry-run: of one GPU")
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help="spread over a Ray cluster")
    add("--workers", type=int, metavar="N", help="with --ray: teachers at once")
    return parser


@command
def main(argv: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    fields = {k: v for k, v in vars(options).items() if k in Request.model_fields and v is not None}
    if options.teacher_robustness == []:
        fields["teacher_robustness"] = DEFAULT
    if options.request:
        fields = json.loads(options.request)  # in full: no arms there are none
    elif not options.dataset or not options.teachers:
        parser.error("--dataset and --teacher are required")
    if options.templates:
        fields["templates"] = load_templates(options.templates)
    request = validated(Request, fields)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    address = None if options.ray == "local" else options.ray
    if options.dry_run:
        spread = Spread(address, options.workers) if options.ray else None
        print_cost(request, options.out, device, options.gpu_price, spread)
        return 0
    if options.ray:
        from shards.building.ray_workers import build_on_ray

        manifest = build_on_ray(request, options.out, address, options.workers, options.device)
    else:
        manifest = build(request, options.out, device)
    total = sum(shard.bytes for shard in manifest.shards)
    print(f"{options.out}: {len(manifest.shards)} shards, {total:,} bytes, {PLAN} and {MANIFEST}")
    if manifest.robustness:
        found = manifest.robustness
        print(f"teachers measured under {len(found.arms)} arms, {found.draws} draws each")
    for name in ("images/s", "teacher alone, images/s"):
        if name in manifest.created:
            print(f"{name}: {manifest.created[name]}")
    print(f"identity {manifest.identity[:16]}; check with: python -m shards.verify {options.out}")
    return 0


if __name__ == "__main__":
    main()
