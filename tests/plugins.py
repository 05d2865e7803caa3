"""Plugins for tests, and their removal afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.support import plugins

EXAMPLES = Path(__file__).parents[1] / "examples"
ARM = """\
from shards.arms import ARMS
from shards.arms.base import arm_entry
from shards.arms.ops import RandomCrop

ARMS["moved"] = arm_entry("moved", "moved by up to {pad} pixels", lambda: (RandomCrop({pad}),))
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def example(folder: Path) -> Path:
    """A copy of the example, to be edited."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(EXAMPLES / "mine.py", folder))


@pytest.fixture
def forgetting() -> Iterator[None]:
    """Forgets the plugins that a test has imported."""
    before = os.environ.pop(plugins.SEARCH, None)
    yield
    for loaded in list(plugins._LOADED.values()):
        plugins._forget(loaded)
    os.environ.pop(plugins.SEARCH, None)
    if before is not None:
        os.environ[plugins.SEARCH] = before
