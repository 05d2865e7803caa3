"""Check a bank: manifest, sha256 of every shard, members, shapes, keys, unit vectors, draws.

python -m shards.verify bank
python -m shards.verify s3://bucket/cifar10
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from shards.arms import make_arm
from shards.command import command
from shards.datasets import SPLITS
from shards.format import Manifest
from shards.progress import Progress
from shards.reader import Shard, iter_shards, load_manifest


def check_draws(manifest: Manifest, shard: Shard) -> None:
    """Stored parameters equal what the generator gives for (seed, key, view)."""
    for record in manifest.plan.arms[shard.record.split]:
        arm = make_arm(record.arm)
        drawn = arm.draw(manifest.plan.seed, shard.keys, record.stop - record.start)
        stored = shard.arrays["params"][:, record.start : record.stop, : len(record.columns)]
        if record.columns != arm.columns or not np.array_equal(drawn, stored):
            raise ValueError(
                f"shard {shard.record.name}: parameters of arm {record.arm} are not those that "
                f"seed {manifest.plan.seed} draws; they come from another version, build again"
            )


def verify(location: str) -> Manifest:
    """Read everything once. Errors: ValueError at the first thing that is wrong."""
    manifest = load_manifest(location)
    with Progress("verify", len(manifest.shards)) as bar:
        for split in SPLITS:
            for shard in iter_shards(location, manifest, split):
                check_draws(manifest, shard)
                bar.update(bar.done + 1, shard.record.name)
    return manifest


def describe(manifest: Manifest) -> Grid:
    """The bank as a table."""
    grid = Grid(title=f"bank {manifest.identity[:16]}", show_header=False)
    data, teacher = manifest.plan.dataset, manifest.plan.teachers[0]
    grid.add_row("data set", f"{data.spec}, {len(data.classes)} classes, {data.image_size} px")
    for split in SPLITS:
        arms = ", ".join(f"{a.arm} x{a.stop - a.start}" for a in manifest.plan.arms[split])
        grid.add_row(split, f"{data.counts[split]:,} samples; views: {arms}")
    grid.add_row("teacher", f"{teacher.spec}, {teacher.parameters:,} parameters, D = {teacher.dim}")
    grid.add_row("weights sha256", teacher.weights_sha256)
    total = sum(shard.bytes for shard in manifest.shards)
    grid.add_row("shards", f"{len(manifest.shards)}, {total:,} bytes, every sha256 agrees")
    return grid


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m shards.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="DIR-OR-URL")
    options = parser.parse_args(argv)
    Console().print(describe(verify(options.location)))
    return 0


if __name__ == "__main__":
    main()
