"""What all tests share: a cache of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one run of the tests found verified, another must not believe."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTIL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
