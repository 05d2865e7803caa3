"""A store on a disk that not all nodes of a cluster see: named in one line before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.running import shared_store


def test_a_node_without_the_bank_of_its_trial_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "banks" / "one"
    monkeypatch.setattr(shared_store.ray.util, "get_node_ip_address", lambda: "10.0.0.2")
    with pytest.raises(ValueError, match=rf"--store .* 10\.0\.0\.2 .*{bank}; .*s3://"):
        shared_store.check_seen(str(tmp_path), str(bank))
    bank.mkdir(parents=True)
    shared_store.check_seen(str(tmp_path), str(bank))
    shared_store.check_seen("s3://bucket/x", "s3://bucket/x/banks/one")


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.timeout(200)
def test_nodes_of_a_cluster_are_asked(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(shared_store, "DELAY", 0.5)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        shared_store.check_shared(str(tmp_path))
        assert list(tmp_path.iterdir()) == []
        assert len(shared_store.nodes_without(str(tmp_path / "none"))) == 3
        monkeypatch.setattr(Path, "touch", lambda path: None)  # as where others see another folder
        monkeypatch.setattr(Path, "unlink", lambda path: None)
        with pytest.raises(ValueError, match=r"--store .* 3 of the cluster's nodes, .*s3://"):
            shared_store.check_shared(str(tmp_path))
    finally:
        monkeypatch.undo()
        ray.shutdown()
