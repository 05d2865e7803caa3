"""What all tests share: a cache of their own, and no GPU but for those that ask for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# The same examples every time: a run of the tests says whether the code changed, not whether the
# dice did. No deadline, because tests share the cores of busy machines.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tests")

# Ray gives its workers a niceness of 15: beside tests of another process they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

VISIBLE = "CUDA_VISIBLE_DEVICES"
SEEN = os.environ.get(VISIBLE)
CUDA = {name: getattr(torch.cuda, name) for name in ("is_available", "device_count")}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one run of the tests found verified, another must not believe."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTIL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def no_gpu() -> Iterator[None]:
    """Neither here nor in processes started from here: a trial of two ranks would need two."""
    patch = pytest.MonkeyPatch()
    patch.setenv(VISIBLE, "")
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.cuda, "device_count", lambda: 0)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def gpu_if_marked(request: pytest.FixtureRequest, no_gpu: None) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    if request.node.get_closest_marker("gpu"):
        for name, real in CUDA.items():
            patch.setattr(torch.cuda, name, real)
        patch.delenv(VISIBLE) if SEEN is None else patch.setenv(VISIBLE, SEEN)
    yield
    patch.undo()
