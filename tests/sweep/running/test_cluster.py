"""A sweep on a cluster: a head without a CPU, as cluster.yaml describes one, and two workers.

Its gangs have a rank on each worker, and a worker is lost without notice while a gang trains; or
workers are drained, as Ray does before it takes nodes away.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from tests.faults.chaos.disturbed import port_of_rank
from tests.sweep.conftest import OBJECT_STORE, started_cluster
from tests.sweep.torchrun import by_torchrun
from tests.trainers.small_runs import without_times
from trainers.canonical import make_config
from trainers.results.folder import finished, read_result, trial_folder
from trainers.results.lease import holder
from trainers.results.trial_journal import read_rows
from trainers.runner import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults]
EPOCHS = 30  # of the gang that loses a rank
PARTS = f"""\
parts:
  - fixed: {{epochs: 2}}
  - fixed: {{engine: ddp, ranks: 2, epochs: {EPOCHS}}}
"""
ZERO = "  - fixed: {engine: deepspeed, ranks: 2, zero_stage: 1, epochs: 1}\n"


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_gangs_over_two_nodes_of_which_one_is_lost(
    cluster: Any, tools: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    text = tools.text.replace("seeds: 2", "seeds: 1").replace("[clean, noise:0.1]", "[noise:0.1]")
    text += PARTS + (ZERO if find_spec("deepspeed") else "")
    (tmp_path / "grid.yaml").write_text(text)
    options = ("--address", cluster.address, "--allow-open-ray", "--save-seconds", "0.2")
    driver = tools.start(tmp_path / "grid.yaml", folder, *options)
    end = time.monotonic() + 450  # on a busy machine the bank and the first trial take minutes
    saved: list[Path] = []
    while not saved and driver.poll() is None and time.monotonic() < end:
        saved = [p for p in folder.glob("trials/*/checkpoints/step-*") if p.name[5:] > "00000020"]
        time.sleep(0.1)
    assert saved, (tmp_path / "run.log").read_text()
    *_, lost = cluster.worker_nodes
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    assert driver.wait(timeout=450) == 0, (tmp_path / "run.log").read_text()
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
    journal = read_rows(trial_folder(str(folder), make_config(results["ddp"].config)))
    assert [row["event"] for row in journal].count("start") >= 2, "it ended before its node did"


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def drain(cluster: Any, node: Any, seconds: float) -> None:
    """What `ray drain-node` and Ray's autoscaler do before a node is taken away."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

    end = int(1000 * (time.time() + seconds))
    client = GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node.node_id, DRAIN_NODE_REASON_PREEMPTION, "test", end)
    assert accepted, why


def node_of_last_rank(cluster: Any, first: int) -> Any:
    """first: process number of the trial's first rank."""
    nodes = {raylet_of(node): node for node in cluster.worker_nodes}
    port = port_of_rank(psutil.Process(first))
    own = next(p.pid for p in psutil.Process(first).parents() if p.pid in nodes)
    if not port:
        return nodes[own]
    for raylet in nodes.keys() - {own}:
        if any(port_of_rank(p) == port for p in psutil.Process(raylet).children(recursive=True)):
            return nodes[raylet]
    raise AssertionError("the second rank is not found")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_leave_nodes_that_ray_drains_and_go_on_elsewhere(
    cluster: Any, tools: Any, tmp_path: Path
) -> None:
    """A trial of one rank leaves its node, a gang the node of its second rank.

    They run one after the other, as the gang needs both nodes. Checkpoints are saved once an hour,
    so that one that is found was saved on leaving.
    """
    folder = tmp_path / "run"
    text = tools.text.replace("seeds: 2", "seeds: 1").replace("[clean, noise:0.1]", "[noise:0.1]")
    text = text.replace("epochs: 2\n", f"epochs: {2 * EPOCHS}\n").replace(
        ", robustness, infonce", ""
    )
    text += "parts:\n  - fixed: {engine: single}\n  - fixed: {engine: ddp, ranks: 2}\n"
    (tmp_path / "grid.yaml").write_text(text)
    trials = {config.ranks: config for config in expand(load_grid(str(tmp_path / "grid.yaml")))}
    options = ("--address", cluster.address, "--allow-open-ray", "--save-seconds", "3600")
    driver = tools.start(tmp_path / "grid.yaml", folder, *options)

    def trains(config: Any) -> bool:
        rows = read_rows(trial_folder(str(folder), config))
        return any(row["event"] == "epoch" for row in rows)

    def wait_for(what: Any) -> Any:
        end = time.monotonic() + 300
        while not (found := what()):
            assert driver.poll() is None, (tmp_path / "run.log").read_text()
            assert time.monotonic() < end, (tmp_path / "run.log").read_text()
            time.sleep(0.1)
        return found

    waiting = list(trials.values())
    while waiting:
        config = wait_for(lambda: next((found for found in waiting if trains(found)), None))
        waiting.remove(config)
        claim = holder(str(folder), config)
        assert claim is not None
        drained = node_of_last_rank(cluster, claim.process.pid)
        drain(cluster, drained, 60)
        began = time.monotonic()
        place = Path(trial_folder(str(folder), config)) / "checkpoints"
        wait_for(lambda p=place: list(p.glob("step-*/manifest.json")))
        wait_for(lambda c=config, b=claim: holder(str(folder), c) != b)
        assert time.monotonic() - began < 60
        cluster.remove_node(drained, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    assert driver.wait(timeout=400) == 0, (tmp_path / "run.log").read_text()
    assert tools.events(folder, "failed") == []
    (here,) = (folder / "banks").iterdir()
    for ranks, config in trials.items():
        journal = read_rows(trial_folder(str(folder), config))
        assert [row["event"] for row in journal].count("start") == 2
        result = finished(str(folder), config)
        assert result is not None
        if ranks == 1:
            alone = run_trial(config, str(here), str(tmp_path / "alone"))
        else:
            alone = by_torchrun(result.config, here, tmp_path / "ddp")
        assert alone is not None
        assert without_times(result) == without_times(alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_head_is_lost_and_the_command_continues_on_another_cluster(
    tools: Any, tmp_path: Path
) -> None:
    """All of its processes at once, as when its machine is taken away; the driver is elsewhere."""
    folder, log = tmp_path / "run", tmp_path / "run.log"
    text = tools.text.replace("seeds: 2", "seeds: 1").replace("[clean, noise:0.1]", "[noise:0.1]")
    text = text.replace("epochs: 2\n", "epochs: 120\n").replace(", robustness, infonce", "")
    (tmp_path / "grid.yaml").write_text(text)
    (config,) = expand(load_grid(str(tmp_path / "grid.yaml")))
    options = ("--allow-open-ray", "--save-seconds", "0.3", "--address")
    with started_cluster() as cluster:
        driver = tools.start(tmp_path / "grid.yaml", folder, *options, cluster.address)
        end = time.monotonic() + 300
        place = Path(trial_folder(str(folder), config)) / "checkpoints"
        while not list(place.glob("step-*/manifest.json")):
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        for processes in cluster.head_node.all_processes.values():
            for one in processes:
                one.process.kill()
        assert driver.wait(timeout=60) == 1
        (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        assert line.startswith("error: Ray has died (")
        assert line.endswith("); run the same command again to continue")
        assert finished(str(folder), config) is None
    with started_cluster() as cluster:
        driver = tools.start(tmp_path / "grid.yaml", folder, *options, cluster.address)
        assert driver.wait(timeout=300) == 0, log.read_text()
    rows = read_rows(trial_folder(str(folder), config))
    assert [row["event"] for row in rows].count("start") == 2
    assert [row["step"] for row in rows if row["event"] == "resumed"][-1] > 0
    (here,) = (folder / "banks").iterdir()
    result, alone = finished(str(folder), config), run_trial(config, str(here), str(tmp_path / "a"))
    assert result is not None
    assert alone is not None
    assert without_times(result) == without_times(alone)


@pytest.mark.slow
def test_a_suspended_trial_on_a_cluster_is_tried_again(
    cluster: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own guard kills it, since no process of Ray notices."""
    monkeypatch.setenv("DISTIL_SILENT_SECONDS", "8")
    folder = tmp_path / "run"
    text = tools.text.replace("seeds: 2", "seeds: 1").replace("[clean, noise:0.1]", "[clean]")
    text = text.replace("epochs: 2\n", "epochs: 12\n").replace(", robustness, infonce", "")
    (tmp_path / "grid.yaml").write_text(text)
    (config,) = expand(load_grid(str(tmp_path / "grid.yaml")))
    options = ("--address", cluster.address, "--allow-open-ray")
    driver = tools.start(tmp_path / "grid.yaml", folder, *options)
    end = time.monotonic() + 300
    while not any(row["event"] == "epoch" for row in read_rows(trial_folder(str(folder), config))):
        assert driver.poll() is None, (tmp_path / "run.log").read_text()
        assert time.monotonic() < end, (tmp_path / "run.log").read_text()
        time.sleep(0.02)
    claim = holder(str(folder), config)
    assert claim is not None
    suspended = psutil.Process(claim.process.pid)
    suspended.suspend()
    suspended.wait(timeout=60)  # nobody else ends it
    assert driver.wait(timeout=300) == 0, (tmp_path / "run.log").read_text()
    journal = read_rows(trial_folder(str(folder), config))
    assert [row["event"] for row in journal].count("start") == 2
    assert finished(str(folder), config) is not None
