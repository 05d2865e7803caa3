"""Compute a bank: the teachers' embeddings of every image and its augmented views, as shards.

    python -m shards.build --dataset digits --teacher embedded --arm noise:0.1 --views 4 --out bank
    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai \\
        --arm crop_flip --arm noise --views 8 --out s3://bucket/cifar10
    python -m shards.build --dataset folder:photos --image-size 32 --train-samples 2000 \\
        --test-samples 500 --teacher open_clip:ViT-B-32:none --out bank --dry-run

Both splits always hold the clean view. The same command again continues a build that was
interrupted, and does nothing when the bank is complete.
"""

from __future__ import annotations

import argparse
import json

import torch

from shards.arms import describe_arms
from shards.arms.groups import describe_groups
from shards.bank.manifest import MANIFEST, PLAN, Manifest
from shards.building.build import build
from shards.building.estimate import Spread, print_cost
from shards.building.request import Request
from shards.building.teacher_robustness import DEFAULT
from shards.datasets import DATASETS
from shards.support.command import CommandParser, command, make_parser
from shards.support.schema import validated
from shards.teachers.prompts import load_templates


def _parser() -> CommandParser:
    arms = [*describe_arms(), *describe_groups()]
    epilog = f"data sets: {', '.join(DATASETS)}\n\narms:\n"
    epilog += "\n".join(f"  {spec:28s} {meaning}" for spec, meaning in arms)
    parser = make_parser("shards.build", __doc__, epilog)
    add = parser.add_argument
    add("--dataset", metavar="SPEC", help="digits, cifar10, folder:DIR, wds:PATTERN, ...")
    add("--teacher", action="append", metavar="SPEC", dest="teachers", help="may be repeated")
    add(
        "--arm",
        action="append",
        metavar="SPEC",
        dest="arms",
        help="augmentation of the training images; may be repeated",
    )
    add("--views", type=int, metavar="K", help="views of each training arm (default 1)")
    add(
        "--test-arm",
        action="append",
        metavar="SPEC",
        dest="test_arms",
        help="augmentation of the test images; may be repeated",
    )
    add("--test-views", type=int, metavar="K", help="views of each test arm (default 1)")
    add(
        "--teacher-robustness",
        nargs="*",
        metavar="SPEC",
        help="measure the teachers under these arms, over --test-views draws, and store the "
        f"figures in the manifest (default: {' '.join(DEFAULT)})",
    )
    add("--image-size", type=int, metavar="S", help="pixels a side of the stored images")
    add("--train-samples", type=int, metavar="N", help="a class-balanced subset (default: all)")
    add("--test-samples", type=int, metavar="N", help="a class-balanced subset (default: all)")
    add("--templates", metavar="FILE", help="prompts, one a line, with {} for the class")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), help="of the teachers' arithmetic")
    add("--seed", type=int, help="of all random augmentation parameters (default 0)")
    add("--batch", type=int, help="batch size of the teachers (default 256)")
    add("--shard-samples", type=int, help="samples in a shard (default 1000)")
    add("--request", help=argparse.SUPPRESS)  # a whole Request as JSON: how a sweep calls this
    add("--out", required=True, metavar="DIR-OR-URL", help="where the bank is written")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--dry-run", action="store_true", help="print bytes, seconds and money; write nothing")
    add("--gpu-price", type=float, metavar="PER_HOUR", help="of one GPU, for --dry-run")
    add(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="compute on a Ray cluster (default ADDRESS: one started on this machine)",
    )
    add("--workers", type=int, metavar="N", help="with --ray: parallel copies of the teachers")
    return parser


@command
def main(argv: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    request = _request(parser, options)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    address = None if options.ray == "local" else options.ray
    if options.dry_run:
        spread = Spread(address, options.workers) if options.ray else None
        print_cost(request, options.out, device, options.gpu_price, spread)
        return 0
    if options.ray:
        # Imported where it is needed: Ray takes a second to import and most builds do without.
        from shards.building.ray_workers import build_on_ray

        manifest = build_on_ray(request, options.out, address, options.workers, options.device)
    else:
        manifest = build(request, options.out, device)
    _print_result(manifest, options.out)
    return 0


def _request(parser: CommandParser, options: argparse.Namespace) -> Request:
    fields = {k: v for k, v in vars(options).items() if k in Request.model_fields and v is not None}
    if options.teacher_robustness == []:
        fields["teacher_robustness"] = DEFAULT
    if options.request:
        fields = json.loads(options.request)
    elif not options.dataset or not options.teachers:
        parser.error("--dataset and --teacher are required")
    if options.templates:
        fields["templates"] = load_templates(options.templates)
    return validated(Request, fields)


def _print_result(manifest: Manifest, out: str) -> None:
    total = sum(shard.bytes for shard in manifest.shards)
    print(f"{out}: {len(manifest.shards)} shards, {total:,} bytes, {PLAN} and {MANIFEST}")
    if manifest.robustness:
        arms, draws = manifest.robustness.arms, manifest.robustness.draws
        print(f"teachers measured under {len(arms)} arms, {draws} draws each")
    for name in ("images/s", "teacher alone, images/s"):
        if name in manifest.created:
            print(f"{name}: {manifest.created[name]}")
    print(f"identity {manifest.identity[:16]}; check with: python -m shards.verify {out}")


if __name__ == "__main__":
    main()
