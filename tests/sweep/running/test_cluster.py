"""A sweep on a cluster: a head without a CPU, as cluster.yaml describes one, and two workers.

Its gangs have a rank on each worker, and a worker is lost without notice while a gang trains.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.conftest import OBJECT_STORE
from tests.sweep.torchrun import by_torchrun
from tests.trainers.small_runs import without_times
from trainers.canonical import make_config
from trainers.results.folder import read_result
from trainers.trial import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults]
EPOCHS = 60  # of the gang that loses a rank
PARTS = f"""\
parts:
  - fixed: {{epochs: 2}}
  - fixed: {{engine: ddp, ranks: 2, epochs: {EPOCHS}}}
"""
ZERO = "  - fixed: {engine: deepspeed, ranks: 2, zero_stage: 1, epochs: 1}\n"


@pytest.mark.timeout(600)
def test_gangs_over_two_nodes_of_which_one_is_lost(
    cluster: Any, tools: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    text = tools.text.replace("seeds: 2", "seeds: 1").replace("[clean, noise:0.1]", "[noise:0.1]")
    text += PARTS + (ZERO if find_spec("deepspeed") else "")
    (tmp_path / "grid.yaml").write_text(text)
    driver = tools.start(tmp_path / "grid.yaml", folder, "--address", cluster.address)
    end = time.monotonic() + 200
    saved: list[Path] = []
    while not saved and driver.poll() is None and time.monotonic() < end:
        saved = [p for p in folder.glob("trials/*/checkpoints/step-*") if p.name[5:] > "00000020"]
        time.sleep(0.1)
    assert saved, (tmp_path / "run.log").read_text()
    *_, lost = cluster.worker_nodes
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    assert driver.wait(timeout=250) == 0, (tmp_path / "run.log").read_text()
    assert tools.events(folder, "failed") == []

    found = [read_result(str(path)) for path in folder.glob("trials/*/result.json")]
    results = {result.config["engine"]: result for result in found}
    (here,) = (folder / "banks").iterdir()
    for engine, result in results.items():
        if engine == "single":
            alone = run_trial(make_config(result.config), str(here), str(tmp_path / "alone"))
            assert alone is not None
        else:
            alone = by_torchrun(result.config, here, tmp_path / engine)
        assert without_times(result) == without_times(alone)
    assert results["ddp"].epochs[-1].epoch == EPOCHS
