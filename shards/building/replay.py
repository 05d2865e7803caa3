"""Verify a bank by computing embeddings again and comparing the data set (`--live`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from shards.arms import make_arm
from shards.bank.manifest import Manifest, TeacherRecord
from shards.bank.reader import Shard
from shards.building.embed import channels_first, embed_view
from shards.building.request import images_at_once
from shards.building.sources import check_images, is_readable
from shards.datasets.base import have_names
from shards.support.rng import hash64, key_id
from shards.support.threads import check_device
from shards.teachers import Teacher, open_teacher
from shards.teachers.prompts import class_embeddings, unpack_floats

# Smallest accepted cosine between stored and new embeddings; storage in fp16 costs less than 1e-6.
LEAST_COSINE = 0.99999


@dataclass
class Verdict:
    """The outcome of a verification; all dictionaries are keyed by the name of the check.

    failures: messages, in the order of the checks; an empty list for a check that passed. notes:
    details to print. unchecked: reasons why checks could not be made.
    """

    manifest: Manifest
    failures: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    unchecked: dict[str, str] = field(default_factory=dict[str, str])

    def attempt(self, check: str, action: Callable[[], object]) -> None:
        """Run `action`, and record a ValueError or OSError as a failure of `check`."""
        failures = self.failures.setdefault(check, [])
        try:
            action()
        except (ValueError, OSError) as error:
            failures.append(str(error))

    @property
    def good(self) -> bool:
        """Whether no check failed."""
        return not any(self.failures.values())


class Replay:
    """Embeds `count` stored samples again and compares them with the stored embeddings.

    The samples are chosen by a hash of the bank's identity, so they are spread over all shards and
    are the same in every run. The class embeddings are computed again too, and the data set's
    identity is compared if it is available. Call `check` with each shard, then `finish`; outcomes
    are recorded in `verdict`.
    Raises: ValueError where a teacher cannot be opened or its weights are not the bank's.
    """

    def __init__(
        self, location: str, manifest: Manifest, count: int, device: str, verdict: Verdict
    ) -> None:
        check_device(device)
        self.verdict, self.device = verdict, device
        self.failures = verdict.failures.setdefault("live", [])
        total = sum(record.samples for record in manifest.shards)
        order = np.argsort(hash64(key_id(manifest.identity), np.arange(total, dtype=np.uint64)))
        chosen, first = np.sort(order[:count]), 0
        self.wanted = len(chosen)
        self.rows: dict[str, np.ndarray] = {}
        for record in manifest.shards:
            inside = (chosen >= first) & (chosen < first + record.samples)
            self.rows[record.name] = chosen[inside] - first
            first += record.samples
        self.least, self.views, self.samples = 1.0, 0, 0
        self.teachers = [self._open(record) for record in manifest.plan.teachers]
        self.step = images_at_once(manifest.plan.batch, device)
        self._check_texts(manifest)
        spec = manifest.plan.dataset.spec
        if is_readable(spec):
            verdict.attempt("data set", lambda: check_images(manifest, location))
        else:
            verdict.unchecked["data set"] = f"{spec} is not available on this machine"

    def _open(self, record: TeacherRecord) -> Teacher:
        teacher = open_teacher(record.spec, self.device, record.precision)
        if teacher.weights_sha256 != record.weights_sha256:
            raise ValueError(
                f"teacher {record.spec}: the weights on this machine have sha256 "
                f"{teacher.weights_sha256[:16]}..., those of the bank "
                f"{record.weights_sha256[:16]}...; use the same weights"
            )
        return teacher

    def _check_texts(self, manifest: Manifest) -> None:
        """Compute the class embeddings again, unless the stored ones are damaged already."""
        if self.verdict.failures.get("texts"):
            return
        classes, templates = manifest.plan.dataset.classes, manifest.plan.templates
        for teacher, packed in zip(self.teachers, manifest.class_embeddings, strict=True):
            if (teacher.has_text and have_names(classes)) != (packed is not None):
                named = "with names" if have_names(classes) else "named by numbers alone"
                self.failures.append(
                    f"teacher {teacher.spec} has {'a' if teacher.has_text else 'no'} text tower, "
                    f"the classes are {named}, and the bank has "
                    f"{'its' if packed else 'no'} class embeddings"
                )
            elif packed is not None:
                stored_CD = unpack_floats(packed.shape, packed.float32, teacher.spec)
                again_CD = class_embeddings(teacher, classes, templates)
                cosine_C = np.vecdot(stored_CD.astype(np.float64), again_CD.astype(np.float64))
                for name, cosine in zip(classes, cosine_C, strict=True):
                    if not cosine >= LEAST_COSINE:
                        self.failures.append(
                            f"class `{name}`, teacher {teacher.spec}: cosine {cosine:.6f}"
                        )

    def finish(self) -> None:
        """Record a failure if some chosen samples were in shards that could not be read."""
        if self.samples < self.wanted:
            self.failures.append(
                f"{self.samples} of {self.wanted} samples were embedded again; the others are in "
                "shards that cannot be read"
            )

    def check(self, shard: Shard) -> None:
        """Embed every view of a shard's chosen samples again, in batches up to the build's size.

        A teacher may round differently in a smaller batch. On a CPU this changes a cosine by less
        than 1e-6, also in bf16, which is far below what LEAST_COSINE allows.
        """
        rows = self.rows[shard.record.name]
        for start in range(0, len(rows), self.step):
            self._replay(shard, rows[start : start + self.step])

    def _replay(self, shard: Shard, rows: np.ndarray) -> None:
        images_BCHW = channels_first(shard.arrays["image"][rows]).to(self.device)
        params_BVP = torch.from_numpy(shard.arrays["params"][rows]).to(self.device)
        for record in self.verdict.manifest.plan.arms[shard.record.split]:
            for view in range(record.start, record.stop):
                embeddings = embed_view(
                    self.teachers, make_arm(record.arm), images_BCHW, params_BVP[:, view]
                )
                for i, raw_BD in enumerate(embeddings):
                    stored_BD = shard.arrays[f"embedding.{i}"][rows, view]
                    name = f"teacher {self.teachers[i].spec}, arm {record.arm}, view "
                    name += str(view - record.start)
                    self._compare(raw_BD, stored_BD, [shard.keys[row] for row in rows], name)
        self.samples += len(rows)

    def _compare(
        self, raw_BD: torch.Tensor, stored_BD: np.ndarray, keys: list[str], name: str
    ) -> None:
        stored = torch.from_numpy(stored_BD.astype(np.float64))
        cosine_B = torch.cosine_similarity(raw_BD.cpu().double(), stored, dim=1).numpy()
        self.views += len(cosine_B)
        self.least = float(np.minimum(self.least, cosine_B.min()))  # np.minimum keeps a NaN
        for key, cosine in zip(keys, cosine_B, strict=True):
            if not cosine >= LEAST_COSINE:
                self.failures.append(f"sample `{key}`, {name}: cosine {cosine:.6f}")
        self.verdict.notes["live"] = (
            f"{self.samples + len(keys)} samples, {self.views} views, least cosine {self.least:.7f}"
        )
