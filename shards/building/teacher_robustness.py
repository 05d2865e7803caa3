"""The teachers' robustness to corruptions, measured once and stored in the manifest.

    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai --out cifar10 \\
        --teacher-robustness noise_paper cifar10c --test-views 3

Embeddings under 75 corruptions would be many times as large as the bank, so only four figures per
corruption are stored, the same that a trial's robustness probe computes for its student: accuracy
of a softmax classifier with C = 1 fitted on the clean unit vectors of the training split (without
the last incomplete batch of 64 in keyed order, as `linear/paper` does), its standard deviation over
draws, cosine to the clean embedding, and effective rank. The random parameters are those that the
bank would store.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

import numpy as np

from shards.arms import make_arm
from shards.bank.manifest import Manifest
from shards.bank.order import keyed_order
from shards.bank.reader import iter_shards
from shards.bank.robustness import TeacherRobustness
from shards.bank.writer import damaged, difference, read_json, write_manifest
from shards.building.executor import CorruptedView, Executor
from shards.building.request import Request
from shards.measures.corruption import Draw, Embeddings, Figures, figures_of, measure_draw
from shards.measures.linear_probe import accuracy, fit_paper
from shards.support import storage
from shards.support.progress import Progress

PARTIAL = "robustness.json"  # draws measured so far; deleted when the manifest has the figures
ORDER: Final = "keyed"  # of the samples, see TeacherRobustness; a file without it is ignored
DEFAULT = ("noise_pixel", "noise_paper", "cifar10c", "bands")


def missing_arms(request: Request, manifest: Manifest) -> tuple[str, ...]:
    """The arms of `request.teacher_robustness` whose figures the manifest lacks."""
    stored = manifest.teacher_figures(request.test_views, exactly=True)
    return tuple(spec for spec in request.teacher_robustness if spec not in stored[0])


def _unit_rows(stored_ND: np.ndarray) -> Embeddings:
    """Stored float16 unit vectors as float32, normalised again to undo the rounding."""
    wide_ND = stored_ND.astype(np.float64)
    return (wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)).astype(np.float32)


def _clean(
    location: str, manifest: Manifest, split: str
) -> tuple[np.ndarray, np.ndarray, list[Embeddings]]:
    """(Rows in keyed order (N,), labels (N,), each teacher's clean unit embeddings (N, D)).

    Labels and embeddings are in keyed order already; the rows are those of the stored order.
    """
    labels: list[np.ndarray] = []
    keys: list[str] = []
    parts: list[list[np.ndarray]] = [[] for _ in manifest.plan.teachers]
    for shard in iter_shards(location, manifest, split):
        labels.append(shard.arrays["label"])
        keys += shard.keys
        for i, rows in enumerate(parts):
            rows.append(shard.arrays[f"embedding.{i}"][:, 0])
    order_N = keyed_order(tuple(keys))
    embeddings = [_unit_rows(np.concatenate(rows)[order_N]) for rows in parts]
    return order_N, np.concatenate(labels)[order_N], embeddings


class RobustnessProbe:
    """Measures corrupted embeddings of the teachers against their clean ones.

    Holds each teacher's clean test embeddings and a classifier fitted on its clean training ones.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        _, labels_N, train = _clean(location, manifest, "train")
        self.order_N, self.labels_N, self.test = _clean(location, manifest, "test")
        self.classifiers = [fit_paper(rows_ND, labels_N) for rows_ND in train]

    def accuracy(self, teacher: int, x_ND: Embeddings) -> float:
        """Accuracy of the classifier of teacher number `teacher` on test embeddings, in [0, 1]."""
        return accuracy(self.classifiers[teacher], x_ND, self.labels_N)

    def measure(self, teacher: int, stored_ND: np.ndarray) -> Draw:
        """The figures of one corrupted view of all test images, float16 unit vectors (N, D).

        They are in the order in which the images are stored.
        """
        x_ND = _unit_rows(stored_ND[self.order_N])
        return measure_draw(x_ND, self.test[teacher], lambda rows: self.accuracy(teacher, rows))


class DrawLog:
    """The draws measured so far, in a file beside the shards, so that a killed run can continue.

    draws: {"ARM VIEW": [the Draw of each teacher]}. A file of another bank is ignored.
    Raises: ValueError where the file is damaged.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        self._path = storage.join(location, PARTIAL)
        self._identity = manifest.identity
        self.draws: dict[str, list[Draw]] = {}
        if storage.exists(self._path):
            stored = read_json(self._path)
            try:
                if stored["identity"] == self._identity and stored.get("order") == ORDER:
                    self.draws = {
                        key: [Draw(**draw) for draw in row] for key, row in stored["draws"].items()
                    }
            except (AttributeError, KeyError, TypeError) as error:
                raise damaged(self._path, repr(error)) from None

    def add(self, view: CorruptedView, row: list[Draw]) -> None:
        """Store the figures of one view, one Draw per teacher, and write the file."""
        self.draws[f"{view.arm} {view.view}"] = row
        draws = {key: [asdict(draw) for draw in row] for key, row in self.draws.items()}
        storage.write_json(self._path, {"identity": self._identity, "order": ORDER, "draws": draws})

    def has(self, view: CorruptedView) -> bool:
        """Whether the figures of a view are stored."""
        return f"{view.arm} {view.view}" in self.draws

    def delete(self) -> None:
        """Delete the file, if it exists."""
        if storage.exists(self._path):
            storage.delete(self._path)


def add_robustness(
    location: str, manifest: Manifest, request: Request, executor: Executor
) -> Manifest:
    """Measure the teachers under the arms whose figures are missing, and update the manifest.

    The bank's identity, plan and shards do not change. A run that was killed continues with the
    next draw.
    Raises: ValueError where `executor` opened other images or teachers than those of the bank.
    """
    plan = manifest.plan
    arms = missing_arms(request, manifest)
    if not arms:
        return manifest
    for name in ("dataset", "teachers", "seed"):
        opened, stored = (json.loads(p.model_dump_json())[name] for p in (executor.plan, plan))
        if opened != stored:
            raise ValueError(f"{location} has another bank: {difference(stored, opened, name)}")
    counts = {spec: make_arm(spec).views(request.test_views) for spec in arms}
    views = [CorruptedView(spec, view) for spec in arms for view in range(counts[spec])]
    log, probe = DrawLog(location, manifest), RobustnessProbe(location, manifest)
    missing = [view for view in views if not log.has(view)]
    passes = plan.dataset.counts["test"] * len(plan.teachers)
    with Progress("teachers under corruption", len(views) * passes) as bar:
        bar.resume_at((len(views) - len(missing)) * passes)
        computed = executor.corrupted(missing, lambda images: bar.update(bar.done + images))
        for view, columns in computed:
            row = [probe.measure(i, columns[f"embedding.{i}"]) for i in range(len(plan.teachers))]
            log.add(view, row)
            bar.note = f"{view.arm} {view.view}"
    figures: list[dict[str, Figures]] = []
    for i, stored in enumerate(manifest.teacher_figures(request.test_views, exactly=True)):
        draws = {s: [log.draws[f"{s} {view}"][i] for view in range(counts[s])] for s in arms}
        figures.append(stored | {spec: figures_of(draws[spec]) for spec in arms})
    robustness = TeacherRobustness(
        draws=request.test_views,
        clean=tuple(probe.accuracy(i, rows_ND) for i, rows_ND in enumerate(probe.test)),
        teachers=tuple(figures),
        order=ORDER,
    )
    manifest = manifest.model_copy(update={"robustness": robustness}).sealed()
    write_manifest(location, manifest)
    log.delete()
    return manifest
