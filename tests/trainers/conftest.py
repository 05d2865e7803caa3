"""One small real bank for all tests of a session: digits seen by the embedded teacher."""

import pytest

from shards.building.build import build
from shards.building.request import Request
from trainers.canonical import make_config
from trainers.runner import run_trial

FIELDS = {
    "dataset": "digits",
    "teacher": "embedded",
    "train_samples": 200,
    "test_samples": 60,
    "arm": "noise:0.1",
    "views": 2,
    "student": "width:1",
    "epochs": 1,
    "test_arms": ("noise:0.1",),
    "test_views": 2,
}


def config_of(**changes):
    return make_config(FIELDS | changes)


@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    request = Request(
        dataset="digits",
        teachers=("embedded",),
        arms=("noise:0.1", "crop_flip"),
        views=2,
        test_arms=("noise:0.1",),
        test_views=2,
        train_samples=200,
        test_samples=60,
    )
    place = str(tmp_path_factory.mktemp("bank"))
    build(request, place)
    return place


@pytest.fixture(scope="session")
def make():
    """A valid TrialConfig for `bank`, with changes."""
    return config_of


@pytest.fixture(scope="session")
def done(bank, make, tmp_path_factory):
    """A finished trial of two epochs: (config, root, result, what was reported)."""
    root, seen = str(tmp_path_factory.mktemp("runs")), []
    config = make(epochs=2)
    return config, root, run_trial(config, bank, root, seen.append), seen
