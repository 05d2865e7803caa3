"""Which banks the trials of a sweep need, and which of them exist already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from shards.arms import ARMS
from shards.bank.manifest import MANIFEST, Manifest
from shards.bank.reader import load_manifest
from shards.building.request import Request
from shards.building.sources import check_sources
from shards.datasets import DATASETS
from shards.support import storage
from shards.support.registry import plugins_of
from shards.teachers import TEACHERS
from sweep.planning.kinds import alike
from trainers.config.schema import TrialConfig
from trainers.inputs import mismatch
from trainers.results.lacking import figures_serve, held_arms


@dataclass(frozen=True)
class BankJob:
    """One bank to build: `request` at `location`."""

    request: Request
    location: str


def present_banks(store: str) -> dict[str, Manifest]:
    """Finished banks under STORE/banks: {location: manifest}."""
    root = storage.join(store, "banks")
    locations = [storage.join(root, name) for name in storage.names(root)]
    return {
        location: load_manifest(location)
        for location in locations
        if storage.exists(storage.join(location, MANIFEST))
    }


def serves(config: TrialConfig, manifest: Manifest, location: str) -> bool:
    """Whether a bank holds everything that the trial reads, and the teacher under each test arm."""
    if mismatch(config, manifest, location) is not None:
        return False
    return held_arms(config, manifest) == set(config.test_arms)


def plan_banks(
    trials: list[TrialConfig], store: str, teacher_robustness: bool = False
) -> tuple[dict[str, str], list[BankJob]]:
    """({trial identity: location of its bank}, the banks still to build).

    A bank in the store that serves a trial is used as it is. Of the other trials, those that
    differ in student, seed or arm alone share one new bank, with the arms of all of them. The
    clean arm is in every bank, so trials on clean images join any. With `data_seed: per_seed` each
    seed needs a bank of its own.

    `teacher_robustness`: new banks hold the teacher's figures under the test arms, where that is
    enough, in place of its embeddings.

    Raises: ValueError where weights or images that a bank was made from have changed since.
    """
    present = present_banks(store)
    bank_of: dict[str, str] = {}
    checked: set[str] = set()
    # {what a new bank must agree in: {views: trials}}; 0 views stands for clean images.
    groups: dict[Request, dict[int, list[TrialConfig]]] = {}
    for first, members in alike(trials).items():
        # With `per_seed` draws each seed reads its own.
        separate = first.data_seed == "per_seed"
        for some in [[one] for one in members] if separate else [members]:
            location = next((at for at in present if serves(some[0], present[at], at)), None)
            if location is None:
                shared = _request(some[0], (), 1, teacher_robustness)
                views = 0 if first.arm == "clean" else first.views
                groups.setdefault(shared, {}).setdefault(views, []).extend(some)
                continue
            if location not in checked:
                check_sources(present[location], location)
                checked.add(location)
            bank_of |= {config.identity: location for config in some}
    jobs: list[BankJob] = []
    for by_views in groups.values():
        clean = by_views.pop(0, [])
        for views, members in by_views.items() or {1: []}.items():
            arms = tuple(sorted({config.arm for config in members}))
            request = _request((members or clean)[0], arms, views, teacher_robustness)
            name = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:16]
            job = BankJob(request, storage.join(store, "banks", name))
            jobs.append(job)
            bank_of |= {config.identity: job.location for config in [*members, *clean]}
            clean = []  # they have joined the first of the banks
    return bank_of, jobs


def _request(
    config: TrialConfig, arms: tuple[str, ...], views: int, teacher_robustness: bool
) -> Request:
    figures = teacher_robustness and figures_serve(config)
    used = [(DATASETS, config.dataset), (TEACHERS, config.teacher)]
    used += [(ARMS, spec) for spec in (*arms, *config.test_arms)]
    return Request(
        plugins=plugins_of(*used),
        dataset=config.dataset,
        teachers=(config.teacher,),
        arms=arms,
        views=views,
        test_arms=() if figures else config.test_arms,
        teacher_robustness=config.test_arms if figures else (),
        test_views=config.test_views,
        image_size=config.image_size,
        train_samples=config.train_samples,
        test_samples=config.test_samples,
        precision=config.teacher_precision or "auto",
        seed=config.draws_seed,
    )
