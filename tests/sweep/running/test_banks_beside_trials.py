"""Banks that a cluster builds: what runs beside them, and a build that fails or is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from shards.bank.manifest import MANIFEST
from tests.plugins import write

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

# An arm whose images are made once a file is there.
WAITS = """\
import time
from pathlib import Path

from shards.arms import ARMS
from shards.arms.base import arm_entry
from shards.arms.ops import RandomCrop


class Waits(RandomCrop):
    def pixels(self, images_BCHW, params_BC):
        while not Path({gate!r}).exists():
            time.sleep(0.05)
        return super().pixels(images_BCHW, params_BC)


ARMS["waits"] = arm_entry("waits", "moved, once a file is there", lambda: (Waits(1),))
"""
# The second part reads other images, so it has a bank of its own.
GRID = """\
name: two-banks
plugins: [mine]
fixed:
  dataset: digits
  teacher: embedded
  student: width:0.5
  train_samples: 200
  test_samples: 60
  epochs: 1
  batch_size: 50
  probes: [spectrum]
  test_arms: []
parts:
  - fixed: {arm: clean}
  - fixed: {arm: waits, train_samples: 100}
"""


@pytest.fixture
def driver(cluster: Any, tools: Any, tmp_path: Path) -> Any:
    write(tmp_path, WAITS.format(gate=str(tmp_path / "gate")))
    (tmp_path / "grid.yaml").write_text(GRID)
    options = ("--address", cluster.address, "--allow-open-ray")
    return tools.start(tmp_path / "grid.yaml", tmp_path / "run", *options)


def until(what: Callable[[], Any], driver: Any, log: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def results(folder: Path) -> list[Path]:
    return list(folder.glob("trials/*/result.json"))


def manifests(folder: Path) -> list[Path]:
    return list(folder.glob(f"banks/*/{MANIFEST}"))


@pytest.mark.timeout(700)
def test_a_trial_runs_while_the_bank_of_another_one_is_built(driver: Any, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "run.log"
    until(lambda: results(folder), driver, log)
    assert len(manifests(folder)) == 1
    (tmp_path / "gate").touch()
    assert driver.wait(timeout=300) == 0, log.read_text()
    assert len(results(folder)) == len(manifests(folder)) == 2


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_build_that_fails_ends_the_sweep_and_the_same_command_goes_on(
    driver: Any, cluster: Any, tools: Any, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "run.log"
    until(lambda: results(folder), driver, log)
    builds = [
        p for p in psutil.Process(driver.pid).children() if "shards.build" in str(p.cmdline())
    ]
    assert len(builds) == 1
    builds[0].kill()
    assert driver.wait(timeout=120) == 2, log.read_text()
    assert "was ended by signal 9" in log.read_text().splitlines()[-1]
    assert len(results(folder)) == 1

    (tmp_path / "gate").touch()
    options = ("--address", cluster.address, "--allow-open-ray")
    again = tools.start(tmp_path / "grid.yaml", folder, *options)
    assert again.wait(timeout=300) == 0, log.read_text()
    assert len(results(folder)) == len(manifests(folder)) == 2
