"""What a trial may use: what the grid says of it comes before the command's options."""

from __future__ import annotations

import pytest

from sweep.planning.resources import Resources, most_at_a_time, slots_of
from sweep.running.schedule import Job, document_of
from trainers.canonical import make_config
from trainers.results.lease import Behalf

FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}


def test_a_grid_limits_the_time_of_its_own_trials() -> None:
    own, other = (make_config(FIELDS | {"epochs": epochs}) for epochs in (1, 2))
    resources = Resources(time_limit=60.0, needs={own.identity: {"minutes": 0.5, "cpus": 2}})
    documents = [
        document_of(Job(config, "bank"), "store", resources, 0, Behalf("sweep"))
        for config in (own, other)
    ]
    assert [document["how"]["time_limit"] for document in documents] == [30.0, 60.0]


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        (Resources(cpus=2), 2),
        (Resources(cpus=5), 5),
        (Resources(cpus=1), 1),  # it cannot run, and is refused elsewhere
        (Resources(cpus=8, concurrent=2), 2),  # of which one in three has two ranks
    ],
)
def test_ranks_run_in_as_many_slots_as_there_are_cores(resources: Resources, slots: int) -> None:
    alone = [make_config(FIELDS | {"seed": seed}) for seed in range(6)]
    gangs = [make_config(FIELDS | {"seed": s, "engine": "ddp", "ranks": 2}) for s in range(3)]
    assert slots_of([*alone, *gangs], resources) == slots


@pytest.mark.parametrize(
    ("resources", "most"),
    [
        (Resources(cpus=3), 3),  # the small ones, while the gangs wait
        (Resources(cpus=8), 7),
        (Resources(cpus=64), 9),
        (Resources(cpus=8, concurrent=2), 2),
        (Resources(address="auto", cpus=1), 9),
        (Resources(address="auto", concurrent=4), 4),
    ],
)
def test_so_many_trials_run_at_a_time_at_most(resources: Resources, most: int) -> None:
    alone = [make_config(FIELDS | {"seed": seed}) for seed in range(6)]
    gangs = [make_config(FIELDS | {"seed": s, "engine": "ddp", "ranks": 2}) for s in range(3)]
    assert most_at_a_time([*gangs, *alone], resources) == most


def test_ranks_of_several_cores_run_in_fewer_slots() -> None:
    trials = [make_config(FIELDS | {"seed": seed, "threads": 2}) for seed in range(6)]
    assert slots_of(trials, Resources(cpus=5)) == 2
