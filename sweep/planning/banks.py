"""Which banks the trials of a sweep need, and which of them are there already."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass

from shards.arms import make_arm
from shards.bank.manifest import MANIFEST, Manifest
from shards.bank.reader import load_manifest
from shards.building.request import Request
from shards.building.sources import check_sources
from shards.support import storage
from shards.support.child_process import child_command, run_module
from trainers.config.schema import TrialConfig
from trainers.inputs import mismatch
from trainers.students.teacher_pca import has_no_network


@dataclass(frozen=True)
class BankJob:
    """One bank to build: `request` at `location`."""

    request: Request
    location: str


def present_banks(store: str) -> dict[str, Manifest]:
    """Finished banks under STORE/banks: {location: manifest}."""
    root = storage.join(store, "banks")
    places = [storage.join(root, name) for name in storage.names(root)]
    return {p: load_manifest(p) for p in places if storage.exists(storage.join(p, MANIFEST))}


def serves(config: TrialConfig, manifest: Manifest, place: str) -> bool:
    """Whether a bank holds everything the trial reads, and the teacher under every test arm.

    That is its embeddings there, or its figures where these are enough.
    """
    if mismatch(config, manifest, place) is not None:
        return False
    views = {record.arm: record.stop - record.start for record in manifest.plan.arms["test"]}
    index = manifest.plan.teacher_index(config.teacher)
    figures = manifest.teacher_figures(config.test_views)[index] if _figures_serve(config) else {}
    return all(
        spec in figures or views.get(spec, 0) >= make_arm(spec).views(config.test_views)
        for spec in config.test_arms
    )


def _figures_serve(config: TrialConfig) -> bool:
    """Whether the teacher's figures tell all: not of fewer classes or fewer dimensions of it."""
    return config.classes is None and not has_no_network(config.student)


def plan_banks(
    trials: list[TrialConfig], store: str, figures: bool = False
) -> tuple[dict[str, str], list[BankJob]]:
    """({trial identity: bank location}, banks still to build).

    `figures`: these hold the teacher's figures under the test arms, where that is enough, in the
    place of its embeddings.

    Trials that differ only in student, seed or arm share one bank; arms that an existing bank
    holds are not computed again. The clean arm is in every bank, so its trials join any.
    Raises: ValueError where local weights or images of a bank were replaced since.
    """
    present = present_banks(store)
    places: dict[str, str] = {}
    checked: set[str] = set()
    groups: dict[Request, dict[int, list[TrialConfig]]] = {}
    for config in trials:
        for place, manifest in present.items():
            if serves(config, manifest, place):
                if place not in checked:
                    check_sources(manifest, place)
                    checked.add(place)
                places[config.identity] = place
                break
        else:
            views = 0 if config.arm == "clean" else config.views
            groups.setdefault(_request(config, (), 1, figures), {}).setdefault(views, []).append(
                config
            )
    jobs: list[BankJob] = []
    for by_views in groups.values():
        clean = by_views.pop(0, [])
        for views, members in by_views.items() or {1: []}.items():
            arms = tuple(sorted({config.arm for config in members}))
            request = _request((members or clean)[0], arms, views, figures)
            name = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:16]
            job = BankJob(request, storage.join(store, "banks", name))
            jobs.append(job)
            places |= {config.identity: job.location for config in [*members, *clean]}
            clean = []
    return places, jobs


def _request(config: TrialConfig, arms: tuple[str, ...], views: int, figures: bool) -> Request:
    figures = figures and _figures_serve(config)
    return Request(
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
        seed=config.data_seed,
    )


def build_bank(job: BankJob) -> int:
    """`python -m shards.build` in a process that ends with this one; its exit code."""
    arguments = job.request.arguments(job.location)
    command = child_command(run_module("shards.build"), arguments)
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
