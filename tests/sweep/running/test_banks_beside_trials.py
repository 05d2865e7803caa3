"""A build on a cluster that is killed, when a trial has run beside it; `test_fake_nodes.py` too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from shards.bank.manifest import MANIFEST
from tests.sweep.two_banks import two_banks

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_a_build_that_fails_ends_the_sweep_and_the_same_command_goes_on(
    cluster: Any, tools: Any, tmp_path: Path
) -> None:
    grid, folder, log = two_banks(tmp_path), tmp_path / "run", tmp_path / "run.log"
    options = ("--address", cluster.address, "--allow-open-ray")

    def found(what: str) -> int:
        return len(list(folder.glob(what)))

    driver = tools.start(grid, folder, *options)
    end = time.monotonic() + 400
    while not found("trials/*/result.json"):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    assert found(f"banks/*/{MANIFEST}") == 1
    builds = [
        p for p in psutil.Process(driver.pid).children() if "shards.build" in str(p.cmdline())
    ]
    assert len(builds) == 1
    builds[0].kill()
    assert driver.wait(timeout=120) == 2, log.read_text()
    assert "was ended by signal 9" in log.read_text().splitlines()[-1]
    assert found("trials/*/result.json") == 1

    (tmp_path / "gate").touch()
    again = tools.start(grid, folder, *options)
    assert again.wait(timeout=300) == 0, log.read_text()
    assert found("trials/*/result.json") == found(f"banks/*/{MANIFEST}") == 2
