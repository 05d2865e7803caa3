"""The last words of a process on another machine are read there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from sweep.running.deaths import elsewhere, why

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


class Dying:
    def die(self) -> None:
        print("the device is gone", "giving up", sep="\n", file=sys.stderr, flush=True)
        os._exit(7)


def test_the_log_of_a_process_elsewhere_ends_the_sentence(cluster: Any, tmp_path: Path) -> None:
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        dying = ray.remote(num_cpus=1)(Dying).remote()
        with pytest.raises(ray.exceptions.RayActorError) as died:
            ray.get(dying.die.remote(), timeout=120)
        found = why(str(died.value), tmp_path)  # this machine has no log of it
        assert found.endswith("died; its log ends: the device is gone | giving up"), found
        assert elsewhere("1", "192.0.2.1") == []  # no node has this address
    finally:
        ray.shutdown()
