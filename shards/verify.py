"""Check a bank: manifest, sha256 of every shard, members, shapes, keys, unit vectors, draws.

    python -m shards.verify bank
    python -m shards.verify s3://bucket/cifar10
    python -m shards.verify bank --live 100

--live N embeds all views of N samples again, from the stored parameters, with the live teachers:
each must have a cosine of at least 0.99999 to the stored embedding. The exit code is 0 where all
is well, 1 where a check failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from shards.arms import make_arm
from shards.command import command
from shards.compute import channels_first, embed_view, images_at_once
from shards.format import Manifest, ShardRecord, TeacherRecord
from shards.progress import Progress
from shards.reader import Shard, UniqueKeys, check_shard, load_manifest
from shards.rng import hash64, key_id
from shards.samples import SPLITS
from shards.teachers import Teacher, open_teacher
from shards.threads import check_device

SHOWN = 5  # failures of a check that are written out
NEEDED = {"accuracy", "cosine", "rank"}  # figures of a teacher under an arm
LEAST_COSINE = 0.99999  # fp16 storage costs less than 1e-6


@dataclass
class Verdict:
    """What was found: failures by check, in the order in which checks are made."""

    manifest: Manifest
    failures: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def attempt(self, check: str, action: Callable[[], object]) -> None:
        try:
            action()
        except ValueError as error:
            self.failures[check].append(str(error))

    @property
    def good(self) -> bool:
        return not any(self.failures.values())


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


def check_robustness(manifest: Manifest) -> None:
    """The teachers' figures are of all teachers, under the same arms, in canonical spelling."""
    found = manifest.robustness
    assert found is not None
    count = len(manifest.plan.teachers)
    if (len(found.teachers), len(found.clean)) != (count, count):
        raise ValueError(f"figures of {len(found.teachers)} teachers for {count}; build again")
    for arm in found.arms:
        if make_arm(arm).spec != arm:
            raise ValueError(f"arm `{arm}` is spelled `{make_arm(arm).spec}`; build again")
    for teacher, figures in zip(manifest.plan.teachers, found.teachers, strict=True):
        if tuple(figures) != found.arms:
            raise ValueError(f"teacher {teacher.spec} has figures of other arms; build again")
        bad = [arm for arm, values in figures.items() if set(values) - {"accuracy_sd"} != NEEDED]
        if bad:
            raise ValueError(f"teacher {teacher.spec}, arm `{bad[0]}`: not all figures are there")


def verify(location: str, live: int = 0, device: str = "cpu") -> Verdict:
    """Read everything once, whatever was checked before. Errors: ValueError without a manifest."""
    manifest = load_manifest(location)
    verdict = Verdict(manifest, {"shards": [], "keys": [], "draws": []})
    if manifest.robustness:
        verdict.failures["robustness"] = []
        verdict.attempt("robustness", lambda: check_robustness(manifest))
        arms, draws = len(manifest.robustness.arms), manifest.robustness.draws
        verdict.notes["robustness"] = f"figures of the teachers under {arms} arms, {draws} draws"
    replay = Replay(manifest, live, device, verdict) if live else None
    with Progress("verify", len(manifest.shards)) as bar:
        for split in SPLITS:
            unique = UniqueKeys(location, manifest, split)
            for record in unique.records:
                _verify_shard(location, record, unique, verdict, replay)
                bar.update(bar.done + 1, record.name)
            if not verdict.failures["shards"]:
                verdict.attempt("keys", unique.finish)
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


class Replay:
    """Runs the live teachers on the stored parameters of `count` samples, spread over the bank."""

    def __init__(self, manifest: Manifest, count: int, device: str, verdict: Verdict) -> None:
        check_device(device)
        self.verdict, self.device = verdict, device
        self.failures = verdict.failures.setdefault("live", [])
        total = sum(record.samples for record in manifest.shards)
        order = np.argsort(hash64(key_id(manifest.identity), np.arange(total, dtype=np.uint64)))
        chosen, first = np.sort(order[:count]), 0
        self.rows: dict[str, np.ndarray] = {}
        for record in manifest.shards:
            inside = (chosen >= first) & (chosen < first + record.samples)
            self.rows[record.name] = chosen[inside] - first
            first += record.samples
        self.least, self.views, self.samples = 1.0, 0, 0
        self.teachers = [self._open(record) for record in manifest.plan.teachers]
        self.step = images_at_once(manifest.plan.batch, device)

    def _open(self, record: TeacherRecord) -> Teacher:
        teacher = open_teacher(record.spec, self.device, record.precision)
        if teacher.weights_sha256 != record.weights_sha256:
            raise ValueError(
                f"teacher {record.spec}: the weights here have sha256 "
                f"{teacher.weights_sha256[:16]}..., the bank's {record.weights_sha256[:16]}..."
            )
        return teacher

    def check(self, shard: Shard) -> None:
        """Every view of the chosen samples of a shard, at most as many at once as in the build.

        Few are a smaller batch, in which a teacher may round otherwise: on a CPU by less than
        1e-6 of a cosine, in bf16 too, far within what passes.
        """
        rows = self.rows[shard.record.name]
        for start in range(0, len(rows), self.step):
            self._replay(shard, rows[start : start + self.step])

    def _replay(self, shard: Shard, rows: np.ndarray) -> None:
        images_BCHW = channels_first(shard.arrays["image"][rows]).to(self.device)
        params_BVP = torch.from_numpy(shard.arrays["params"][rows]).to(self.device)
        for record in self.verdict.manifest.plan.arms[shard.record.split]:
            for view in range(record.start, record.stop):
                again = embed_view(
                    self.teachers, make_arm(record.arm), images_BCHW, params_BVP[:, view]
                )
                for i, raw_BD in enumerate(again):
                    stored_BD = shard.arrays[f"embedding.{i}"][rows, view]
                    place = f"teacher {self.teachers[i].spec}, arm {record.arm}, view "
                    place += str(view - record.start)
                    self._compare(raw_BD, stored_BD, [shard.keys[row] for row in rows], place)
        self.samples += len(rows)

    def _compare(
        self, raw_BD: torch.Tensor, stored_BD: np.ndarray, keys: list[str], place: str
    ) -> None:
        stored = torch.from_numpy(stored_BD.astype(np.float64))
        cosine_B = torch.cosine_similarity(raw_BD.cpu().double(), stored, dim=1).numpy()
        self.views += len(cosine_B)
        self.least = min(self.least, float(cosine_B.min()))
        for key, cosine in zip(keys, cosine_B, strict=True):
            if not cosine >= LEAST_COSINE:
                self.failures.append(f"sample `{key}`, {place}: cosine {cosine:.6f}")
        self.verdict.notes["live"] = (
            f"{self.samples + len(keys)} samples, {self.views} views, least cosine {self.least:.7f}"
        )


def describe(verdict: Verdict) -> Grid:
    """The bank and the checks as a table."""
    manifest = verdict.manifest
    grid = Grid(title=f"bank {manifest.identity[:16]}", show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    data = manifest.plan.dataset
    grid.add_row("data set", f"{data.spec}, {len(data.classes)} classes, {data.image_size} px")
    for split in SPLITS:
        arms = ", ".join(f"{a.arm} x{a.stop - a.start}" for a in manifest.plan.arms[split])
        grid.add_row(split, f"{data.counts[split]:,} samples; views: {arms}")
    texts = zip(manifest.plan.teachers, manifest.class_embeddings, strict=True)
    for teacher, text in texts:
        told = f"{teacher.spec}, {teacher.parameters:,} parameters, D = {teacher.dim}, "
        told += f"{teacher.precision}, {'with' if text else 'no'} class embeddings"
        grid.add_row("teacher", told)
        grid.add_row("weights sha256", teacher.weights_sha256)
    total = sum(shard.bytes for shard in manifest.shards)
    verdict.notes["shards"] = f"{len(manifest.shards)}, {total:,} bytes"
    grid.add_section()
    grid.add_row("manifest", "ok, its checksum agrees")
    for check, failures in verdict.failures.items():
        note = f" ({verdict.notes[check]})" if check in verdict.notes else ""
        said = "\n".join(failures[:SHOWN]) + ("\n..." if len(failures) > SHOWN else "")
        word = f"[bold red]FAILED[/], {len(failures)}: {escape(said)}" if failures else "ok"
        grid.add_row(check, word + note)
    return grid


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m shards.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="DIR-OR-URL")
    parser.add_argument("--live", type=int, default=0, metavar="N", help="samples to embed again")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    if options.live < 0:
        raise ValueError(f"--live: {options.live}; 0 or more samples")
    verdict = verify(options.location, options.live, options.device)
    Console().print(describe(verdict))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    main()
