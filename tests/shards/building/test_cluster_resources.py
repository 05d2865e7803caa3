"""What a cluster can start counts, not only what is up: on a real Ray, whose node types vary."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
import ray

from shards.building.cluster_resources import most
from shards.building.ray_connection import connected
from sweep.planning.resources import Resources
from sweep.running.schedule import gpus_for

pytestmark = pytest.mark.ray

HEAD = {"resources": {"CPU": 0}, "max_workers": 0}
SPOT = {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8}


@pytest.fixture(scope="module", autouse=True)
def local() -> Iterator[None]:
    with connected(None, "test_cluster_resources", cpus=2, store=100 * 1024 * 1024):
        yield


@pytest.fixture
def autoscaler(tmp_path: Path) -> Iterator[Any]:
    """A process with the command line of this Ray's autoscaler, started with a cluster file."""
    started: list[subprocess.Popen[bytes]] = []

    def start(config: dict[str, Any], gcs: str = "") -> None:
        file = tmp_path / f"{len(started)}.yaml"
        file.write_text(json.dumps(config))
        gcs = gcs or ray.get_runtime_context().gcs_address
        options = [f"--gcs-address={gcs}", f"--autoscaling-config={file}"]
        command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
        child = subprocess.Popen([*command, *options], stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        started.append(child)

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_the_nodes_that_are_up_count() -> None:
    assert (most("CPU"), most("GPU")) == (2, 0)
    assert gpus_for(Resources()) == 0


@pytest.mark.parametrize(("limit", "gpus"), [(10, 8), (3, 3)])
def test_what_the_autoscaler_may_start_counts(autoscaler: Any, limit: int, gpus: int) -> None:
    types = {"head": HEAD, "spot": SPOT}
    autoscaler({"max_workers": 9, "available_node_types": {"other": SPOT}}, "192.0.2.9:6379")
    autoscaler({"max_workers": limit, "available_node_types": types})
    assert (most("CPU"), most("GPU")) == (4 * gpus, gpus)
    assert gpus_for(Resources(address="auto")) == 1
    assert gpus_for(Resources(address="auto", gpus_per_trial=0.5)) == 0.5


def test_what_a_cluster_reports_counts() -> None:
    from ray._private.worker import global_worker
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2  # generated: its classes are made when it is imported
    group = messages.NodeGroupConfig(resources={"CPU": 8, "GPU": 2}, max_count=5, name="workers")
    worker: Any = global_worker
    client = worker.gcs_client
    config = messages.ClusterConfig(node_group_configs=[group])
    client.report_cluster_config(config.SerializeToString())
    try:
        assert (most("CPU"), most("GPU")) == (40, 10)
    finally:
        client.report_cluster_config(messages.ClusterConfig().SerializeToString())
    assert most("GPU") == 0
