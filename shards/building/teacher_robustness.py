"""The teachers under corruption, measured once and kept as figures in the bank's manifest.

    python -m shards.build --dataset cifar10 --teacher open_clip:ViT-B-32:openai --out cifar10 \\
        --teacher-robustness noise_paper cifar10c --test-views 3

Embeddings under 75 corruptions would be many times the bank; four numbers each are not. They are
those that a trial's robustness probe takes of its student: accuracy of a softmax classifier with
C = 1 fitted on the clean unit vectors of train (the last short batch of 64 dropped, as the paper
does), cosine to the clean embedding, effective rank. Draws are those that the bank would store.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from shards.arms import make_arm
from shards.bank.manifest import Manifest
from shards.bank.reader import iter_shards
from shards.bank.robustness import TeacherRobustness
from shards.bank.writer import damaged, difference, read_json, write_manifest
from shards.building.embed import Computes, CorruptView
from shards.building.request import Request
from shards.measures.corruption import Draw, Embeddings, figures_of, measure_draw
from shards.measures.linear_probe import accuracy, fit_paper
from shards.support import storage
from shards.support.progress import Progress

PARTIAL = "robustness.json"  # what is done of it, until the manifest has all
DEFAULT = ("noise_pixel", "noise_paper", "cifar10c", "bands")


def missing_arms(request: Request, manifest: Manifest) -> tuple[str, ...]:
    """Arms of `request.teacher_robustness` whose figures the manifest does not have yet."""
    stored = manifest.teacher_figures(request.test_views, exactly=True)
    return tuple(spec for spec in request.teacher_robustness if spec not in stored[0])


def _unit_rows(stored_ND: np.ndarray) -> Embeddings:
    """Stored float16 unit vectors -> float32, exactly of length 1."""
    wide_ND = stored_ND.astype(np.float64)
    return (wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)).astype(np.float32)


def _clean(location: str, manifest: Manifest, split: str) -> tuple[np.ndarray, list[Embeddings]]:
    """Labels, and each teacher's clean embeddings, of a split."""
    labels, parts = [], [[] for _ in manifest.plan.teachers]
    for shard in iter_shards(location, manifest, split):
        labels.append(shard.arrays["label"])
        for i, rows in enumerate(parts):
            rows.append(shard.arrays[f"embedding.{i}"][:, 0])
    return np.concatenate(labels), [_unit_rows(np.concatenate(rows)) for rows in parts]


class Probe:
    """Each teacher's clean embeddings of a finished bank, and the classifier fitted on them."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        labels_N, train = _clean(location, manifest, "train")
        self.labels_N, self.test = _clean(location, manifest, "test")
        self.classifiers = [fit_paper(rows_ND, labels_N) for rows_ND in train]

    def accuracy(self, teacher: int, x_ND: Embeddings) -> float:
        return accuracy(self.classifiers[teacher], x_ND, self.labels_N)

    def measure(self, teacher: int, stored_ND: np.ndarray) -> Draw:
        x_ND = _unit_rows(stored_ND)
        return measure_draw(x_ND, self.test[teacher], lambda rows: self.accuracy(teacher, rows))


class Ledger:
    """What is measured so far, on disk: {arm and view: one Draw of each teacher}."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self._place = storage.join(location, PARTIAL)
        self._identity = manifest.identity
        self.draws: dict[str, list[Draw]] = {}
        if storage.exists(self._place):
            there = read_json(self._place)
            try:
                if there["identity"] == self._identity:
                    self.draws = {k: [Draw(**d) for d in row] for k, row in there["draws"].items()}
            except (AttributeError, KeyError, TypeError) as error:
                raise damaged(self._place, repr(error)) from None

    def add(self, item: CorruptView, row: list[Draw]) -> None:
        self.draws[f"{item.arm} {item.view}"] = row
        told = {key: [asdict(draw) for draw in row] for key, row in self.draws.items()}
        storage.write_json(self._place, {"identity": self._identity, "draws": told})

    def has(self, item: CorruptView) -> bool:
        return f"{item.arm} {item.view}" in self.draws

    def close(self) -> None:
        if storage.exists(self._place):
            storage.delete(self._place)


def add_robustness(
    location: str, manifest: Manifest, request: Request, place: Computes
) -> Manifest:
    """Measure what is missing, and write the manifest again with all of it.

    The bank's identity, plan and shards stay as they are. A killed run goes on with the draw it
    was at. Raises: ValueError where `place` sees other images or teachers than the bank holds.
    """
    plan = manifest.plan
    arms = missing_arms(request, manifest)
    if not arms:
        return manifest
    for name in ("dataset", "teachers", "seed"):
        mine, there = (json.loads(p.model_dump_json())[name] for p in (place.plan, plan))
        if mine != there:
            raise ValueError(f"{location} holds another bank: {difference(there, mine, name)}")
    views = {spec: make_arm(spec).views(request.test_views) for spec in arms}
    items = [CorruptView(spec, view) for spec in arms for view in range(views[spec])]
    ledger, probe = Ledger(location, manifest), Probe(location, manifest)
    todo = [item for item in items if not ledger.has(item)]
    each = plan.dataset.counts["test"] * len(plan.teachers)
    with Progress("teachers under corruption", len(items) * each) as bar:
        bar.resume_at((len(items) - len(todo)) * each)
        for item, columns in place.corrupted(todo, lambda images: bar.update(bar.done + images)):
            row = [probe.measure(i, columns[f"embedding.{i}"]) for i in range(len(plan.teachers))]
            ledger.add(item, row)
            bar.note = f"{item.arm} {item.view}"
    found = []
    for i, kept in enumerate(manifest.teacher_figures(request.test_views, exactly=True)):
        rows = {s: [ledger.draws[f"{s} {view}"][i] for view in range(views[s])] for s in arms}
        found.append(kept | {spec: figures_of(draws) for spec, draws in rows.items()})
    robustness = TeacherRobustness(
        draws=request.test_views,
        clean=tuple(probe.accuracy(i, rows_ND) for i, rows_ND in enumerate(probe.test)),
        teachers=tuple(found),
    )
    manifest = manifest.model_copy(update={"robustness": robustness}).sealed()
    write_manifest(location, manifest)
    ledger.close()
    return manifest
