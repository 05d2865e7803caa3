"""A sweep on a cluster of two nodes, its head without a CPU, as cluster.yaml describes one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.cluster]
STORE = 80 * 1024 * 1024


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    temporary = tempfile.mkdtemp(prefix="rc-")  # socket paths must stay short
    patch.setenv("RAY_TMPDIR", temporary)
    Path(temporary, "ray").mkdir()
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, object_store_memory=STORE)
    yield cluster.address
    cluster.shutdown()
    patch.undo()
    shutil.rmtree(temporary, ignore_errors=True)


def test_the_cluster_builds_the_bank_and_trains_the_same_students(
    address: str, swept: Any, grid: Path, tools: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ran = tools.run(grid, folder, "--address", address, "--json")
    assert ran.code == 0, ran.err
    assert "on the cluster" in ran.err
    (here,) = (folder / "banks").iterdir()
    (there,) = (swept.folder / "banks").iterdir()
    for shard in sorted(there.glob("*.tar")):
        assert (here / shard.name).read_bytes() == shard.read_bytes()
    alone = tools.run(grid, swept.folder, "--json")
    assert json.loads(ran.out) == json.loads(alone.out)
