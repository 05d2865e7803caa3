"""Check a bank: its manifest, the checksums of every shard, and what the shards contain.

    python -m shards.verify bank
    python -m shards.verify s3://bucket/cifar10
    python -m shards.verify bank --live 100

The content checks cover members, shapes, keys, unit length of embeddings, augmentation parameters
and class embeddings. --live N also runs the teachers again, on all views of N samples and on the
prompts of every class: each embedding must have a cosine of at least 0.99999 to the stored one. If
the data set is available on this machine, its images are compared with the bank too.

Exit status: 0 if all checks pass, 1 if one fails.
"""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from shards.arms import make_arm
from shards.bank.manifest import Manifest, ShardRecord
from shards.bank.reader import Shard, UniqueKeys, check_shard, load_manifest
from shards.building.replay import Replay, Verdict
from shards.datasets.base import SPLITS
from shards.support.command import command, make_parser
from shards.support.plugins import load_plugins
from shards.support.progress import Progress
from shards.teachers.prompts import unpack_floats

SHOWN = 5  # failures printed per check
# Figures that every teacher must have under every arm; accuracy_sd exists for several draws only.
NEEDED = {"accuracy", "cosine", "rank"}


def check_draws(manifest: Manifest, shard: Shard) -> None:
    """Check that the stored augmentation parameters are those of (arm, seed, key, view).

    Raises: ValueError naming the shard and the arm where they are not.
    """
    for record in manifest.plan.arms[shard.record.split]:
        arm = make_arm(record.arm)
        drawn = arm.draw(manifest.plan.seed, shard.keys, record.stop - record.start)
        stored = shard.arrays["params"][:, record.start : record.stop, : len(record.columns)]
        if record.columns != arm.columns or not np.array_equal(drawn, stored):
            raise ValueError(
                f"shard {shard.record.name}: parameters of arm {record.arm} are not those "
                f"of seed {manifest.plan.seed}; another version built it, build it again"
            )


def check_texts(manifest: Manifest) -> None:
    """Check that each CLIP teacher has one finite unit vector (D,) per class.

    Raises: ValueError naming the teacher and the class where it does not.
    """
    count, stored = len(manifest.plan.teachers), len(manifest.class_embeddings)
    if stored != count:
        raise ValueError(f"class embeddings of {stored} teachers for {count}; build it again")
    for teacher, packed in zip(manifest.plan.teachers, manifest.class_embeddings, strict=True):
        if packed is None:
            continue
        where = f"class embeddings of teacher {teacher.spec}"
        text_CD = unpack_floats(packed.shape, packed.float32, where)
        expected = (len(manifest.plan.dataset.classes), teacher.dim)
        if packed.shape != expected:
            raise ValueError(f"{where}: {packed.shape}, expected {expected}; build again")
        bad_C = ~(np.abs(np.linalg.norm(text_CD.astype(np.float64), axis=1) - 1) < 1e-4)
        if bad_C.any():
            name = manifest.plan.dataset.classes[int(bad_C.argmax())]
            raise ValueError(f"{where}: class `{name}` has no unit vector; build again")


def check_robustness(manifest: Manifest) -> None:
    """Check that all teachers have all figures under the same arms, in canonical spelling.

    Raises: ValueError naming the teacher or arm where they do not.
    """
    found = manifest.robustness
    assert found is not None
    count = len(manifest.plan.teachers)
    if (len(found.teachers), len(found.clean)) != (count, count):
        raise ValueError(f"figures of {len(found.teachers)} teachers for {count}; build it again")
    for arm in found.arms:
        if make_arm(arm).spec != arm:
            raise ValueError(
                f"arm `{arm}` should be written `{make_arm(arm).spec}`; build it again"
            )
    for teacher, figures in zip(manifest.plan.teachers, found.teachers, strict=True):
        if tuple(figures) != found.arms:
            raise ValueError(f"teacher {teacher.spec} has figures of other arms; build it again")
        bad = [arm for arm, values in figures.items() if set(values) - {"accuracy_sd"} != NEEDED]
        if bad:
            raise ValueError(f"teacher {teacher.spec}, arm `{bad[0]}`: figures are missing")


def verify(location: str, live: int = 0, device: str = "cpu") -> Verdict:
    """Read and check the whole bank, including shards that this machine has verified before.

    live: number of samples to embed again on `device`, 0 for none. Failures are collected in the
    result.
    Raises: ValueError where the bank has no readable manifest, or a plugin is not found.
    """
    manifest = load_manifest(location)
    # The checks below draw the parameters of the arms again.
    _ = load_plugins(manifest.plan.plugins, recorded=True)
    verdict = Verdict(manifest, {"shards": [], "keys": [], "draws": []})
    verdict.attempt("texts", lambda: check_texts(manifest))
    if manifest.robustness:
        verdict.attempt("robustness", lambda: check_robustness(manifest))
        arms, draws = len(manifest.robustness.arms), manifest.robustness.draws
        verdict.notes["robustness"] = f"teachers under {arms} arms, {draws} draws each"
    replay = Replay(location, manifest, live, device, verdict) if live else None
    with Progress("verify", len(manifest.shards)) as bar:
        for split in SPLITS:
            unique = UniqueKeys(location, manifest, split)
            for record in unique.records:
                _verify_shard(location, record, unique, verdict, replay)
                bar.update(bar.done + 1, record.name)
            if not verdict.failures["shards"]:
                verdict.attempt("keys", unique.finish)
    if replay is not None:
        replay.finish()
    return verdict


def _verify_shard(
    location: str,
    record: ShardRecord,
    unique: UniqueKeys,
    verdict: Verdict,
    replay: Replay | None,
) -> None:
    try:
        shard = check_shard(location, verdict.manifest, record)
    except (ValueError, OSError) as error:
        verdict.failures["shards"].append(str(error))
        return
    verdict.attempt("keys", lambda: unique.add(record, shard.keys))
    verdict.attempt("draws", lambda: check_draws(verdict.manifest, shard))
    if replay is not None:
        replay.check(shard)


def describe(verdict: Verdict) -> Grid:
    """A table for the terminal: the bank's contents and the outcome of each check."""
    manifest = verdict.manifest
    grid = Grid(title=f"bank {manifest.identity[:16]}", show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    data = manifest.plan.dataset
    grid.add_row("data set", f"{data.spec}, {len(data.classes)} classes, {data.image_size} px")
    for split in SPLITS:
        arms = ", ".join(f"{a.arm} x{a.stop - a.start}" for a in manifest.plan.arms[split])
        grid.add_row(split, f"{data.counts[split]:,} samples; views: {arms}")
    texts = zip(manifest.plan.teachers, manifest.class_embeddings, strict=False)
    for teacher, text in texts:
        about = f"{teacher.spec}, {teacher.parameters:,} parameters, D = {teacher.dim}, "
        about += f"{teacher.precision}, {'with' if text else 'no'} class embeddings"
        grid.add_row("teacher", about)
        grid.add_row("weights sha256", teacher.weights_sha256)
    total = sum(shard.bytes for shard in manifest.shards)
    verdict.notes["shards"] = f"{len(manifest.shards)}, {total:,} bytes"
    grid.add_section()
    grid.add_row("manifest", "ok, its checksum matches")
    for check, failures in verdict.failures.items():
        note = f" ({verdict.notes[check]})" if check in verdict.notes else ""
        lines = "\n".join(failures[:SHOWN]) + ("\n..." if len(failures) > SHOWN else "")
        verdict_text = f"[bold red]FAILED[/], {len(failures)}: {escape(lines)}"
        grid.add_row(check, (verdict_text if failures else "ok") + note)
    for check, why in verdict.unchecked.items():
        grid.add_row(check, f"[yellow]not checked[/], {escape(why)}")
    return grid


@command
def main(argv: list[str]) -> int:
    """Run the command with the arguments `argv`; returns the exit status."""
    parser = make_parser("shards.verify", __doc__)
    parser.add_argument("location", metavar="DIR-OR-URL", help="a complete bank")
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="N",
        help="embed N stored samples again with the teachers and compare (default: none)",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", default=device, help="cpu or cuda, for --live (default: cuda if available)"
    )
    options = parser.parse_args(argv)
    if options.live < 0:
        raise ValueError(f"--live: {options.live}; expected 0 or more samples")
    verdict = verify(options.location, options.live, options.device)
    Console().print(describe(verdict))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    main()
