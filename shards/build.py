"""Build a bank: the teachers' embeddings of every image and its augmented views, as shards.

    python -m shards.build --dataset digits --teacher embedded --arm noise:0.1 --views 4 --out bank
    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai \\
        --arm crop_flip --arm noise --views 8 --out s3://bucket/cifar10
    python -m shards.build --dataset folder:photos --image-size 32 --train-samples 2000 \\
        --test-samples 500 --teacher open_clip:ViT-B-32:none --out bank --dry-run

Both splits always contain the clean view. Run the same command again to continue an interrupted
build; it does nothing when the bank is complete.
"""

from __future__ import annotations

import argparse
import json
import math
from importlib.util import find_spec

import torch

from shards.arms import describe_arms
from shards.arms.groups import describe_groups
from shards.bank.manifest import MANIFEST, PLAN, Manifest
from shards.building.build import build
from shards.building.estimate import Spread, print_cost
from shards.building.request import Request
from shards.building.teacher_robustness import DEFAULT
from shards.datasets import DATASETS
from shards.support.command import CommandParser, at_least, command, make_parser
from shards.support.memory import keep_freed_memory
from shards.support.schema import validated
from shards.teachers.prompts import load_templates


def _parser() -> CommandParser:
    arms = [*describe_arms(), *describe_groups()]
    epilog = f"data sets: {', '.join(DATASETS)}\n\narms:\n"
    epilog += "\n".join(f"  {spec:28s} {meaning}" for spec, meaning in arms)
    parser = make_parser("shards.build", __doc__, epilog)
    _add_what_to_embed(parser)
    _add_how_it_is_built(parser)
    _add_where_it_is_built(parser)
    return parser


def _add_what_to_embed(parser: CommandParser) -> None:
    add = parser.add_argument
    add("--dataset", metavar="SPEC", help="data set: digits, cifar10, folder:DIR, ...")
    add(
        "--teacher",
        action="append",
        metavar="SPEC",
        dest="teachers",
        help="model to embed with: embedded, open_clip:NAME:TAG, timm:NAME, ...; may be repeated",
    )
    add(
        "--arm",
        action="append",
        metavar="SPEC",
        dest="arms",
        help="augmentation of the training images; may be repeated",
    )
    add(
        "--plugin",
        action="append",
        metavar="MODULE",
        dest="plugins",
        help="a module on sys.path that registers an arm, a teacher or a data set; may be repeated",
    )
    add("--views", type=int, metavar="K", help="augmented views per training arm (default 1)")
    add(
        "--test-arm",
        action="append",
        metavar="SPEC",
        dest="test_arms",
        help="augmentation of the test images; may be repeated",
    )
    add("--test-views", type=int, metavar="K", help="augmented views per test arm (default 1)")
    add(
        "--teacher-robustness",
        nargs="*",
        metavar="SPEC",
        help="measure the teachers' accuracy, cosine to clean and rank under these arms, averaged "
        "over --test-views random draws, and store the results in the manifest; without SPEC: "
        f"{' '.join(DEFAULT)}",
    )


def _add_how_it_is_built(parser: CommandParser) -> None:
    add = parser.add_argument
    add(
        "--image-size",
        type=int,
        metavar="S",
        help="side of the stored images in pixels (default: the data set's)",
    )
    add(
        "--train-samples",
        type=int,
        metavar="N",
        help="size of a class-balanced subset of the training images (default: all)",
    )
    add(
        "--test-samples",
        type=int,
        metavar="N",
        help="size of a class-balanced subset of the test images (default: all)",
    )
    add(
        "--templates",
        metavar="FILE",
        help="prompts for the class embeddings, one per line, with {} for the class "
        "(default: the data set's standard prompts)",
    )
    add(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the teachers' forward passes; auto (the default) chooses the fastest whose "
        "embeddings agree with fp32",
    )
    add("--seed", type=int, metavar="N", help="of all random augmentations (default 0)")
    add("--batch", type=int, metavar="N", help="batch size of the teachers (default 256)")
    add("--shard-samples", type=int, metavar="N", help="samples per shard (default 1000)")
    # A whole Request as JSON, with which a sweep calls this command.
    add("--request", help=argparse.SUPPRESS)


def _add_where_it_is_built(parser: CommandParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="DIR-OR-URL", help="folder or URL to write the bank to")
    add("--device", help="cpu or cuda (default: cuda if available)")
    add(
        "--dry-run",
        action="store_true",
        help="print the bank's size and the time and cost of building it; write nothing",
    )
    add(
        "--gpu-price",
        type=at_least(0.0),
        metavar="PER_HOUR",
        help="price of a GPU hour, for --dry-run",
    )
    add(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="compute on the Ray cluster at ADDRESS; without ADDRESS, on this machine's cores or "
        "GPUs with a Ray cluster started for the build",
    )
    add(
        "--allow-open-ray",
        action="store_true",
        help="use a Ray that asks for no token, where whoever reaches it can run code (default: "
        "refuse it, unless its address is a loopback one)",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="with --ray: number of workers, each with a copy of the teachers on one core or GPU "
        "(default: as many as fit)",
    )


@command
def main(argv: list[str]) -> int:
    """Run the command with the arguments `argv`; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    _check_numbers(options)
    request = _request(parser, options)
    keep_freed_memory()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    address = None if options.ray == "local" else options.ray
    if options.dry_run:
        spread = Spread(address, options.workers) if options.ray else None
        print_cost(request, options.out, device, options.gpu_price, spread)
        return 0
    if options.ray:
        if find_spec("ray") is None:  # nothing else of this package needs it
            raise ValueError(
                "--ray: Ray is not installed; leave --ray out, or pip install 'ray[default,tune]'"
            )
        # Imported only when needed, because Ray takes a second to import and most builds run
        # without it.
        from shards.building.ray_start import check_address
        from shards.building.ray_token import check_token
        from shards.building.ray_workers import build_on_ray

        if address:
            check_address(address)
        check_token(address, options.allow_open_ray)
        manifest = build_on_ray(request, options.out, address, options.workers, options.device)
    else:
        manifest = build(request, options.out, device)
    _print_result(manifest, options.out)
    return 0


def _check_numbers(options: argparse.Namespace) -> None:
    """Raises: ValueError for a number that is no part of a Request, which checks its own."""
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers: {options.workers}; expected 1 or more")
    if options.gpu_price is not None and not 0 <= options.gpu_price < math.inf:
        raise ValueError(f"--gpu-price: {options.gpu_price}; expected 0 or more")


def _request(parser: CommandParser, options: argparse.Namespace) -> Request:
    # Options that were not given stay out, so that the defaults of Request apply.
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
        print(f"robustness of the teachers: {len(arms)} arms, {draws} draws each")
    for name in ("images/s", "teacher alone, images/s"):
        if name in manifest.created:
            print(f"{name}: {manifest.created[name]}")
    print(f"identity {manifest.identity[:16]}; check with: python -m shards.verify {out}")


if __name__ == "__main__":
    main()
