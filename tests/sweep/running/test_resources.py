"""What a trial may use: what the grid says of it comes before the command's options."""

from __future__ import annotations

from sweep.running.resources import Resources
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
