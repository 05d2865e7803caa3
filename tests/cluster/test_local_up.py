"""`ray up clusters/local.yaml` on three hosts in namespaces, and a sweep that loses one of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Network, network
from tests.sweep.conftest import run
from tests.trainers.small_runs import without_times
from trainers.results.folder import read_result
from trainers.results.record import TrialResult

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.faults]
GRID = """\
name: fleet
fixed:
  dataset: digits
  teacher: embedded
  epochs: 6
  train_samples: 320
  test_samples: 40
  batch_size: 16
  probes: [spectrum]
  test_arms: []
seeds: 2
first: [{ranks: 2}]
resources: {placement: spread}
parts:
  - axes: {student: ["width:0.25", "width:0.5"]}
  - fixed: {student: "width:0.25", ranks: 2, engine: ddp}
"""
TRIALS = 6


@pytest.fixture
def hosts() -> Iterator[Network]:
    with network() as made:
        yield made


def filled_in(hosts: Network, store: Path) -> Path:
    """clusters/local.yaml for a head and two workers, with one core each."""
    file = hosts.folder / "local.yaml"
    head, *workers = (hosts.hosts[name].address for name in ("head", "one", "two"))
    options = f"--to {file} --head {head} --workers {','.join(workers)} --user root"
    options += f" --key ~/.ssh/key --store {store}"
    output = hosts.user.run(f"python -m sweep.cluster init clusters/local.yaml {options}")
    for address in (head, *workers):
        assert f"host:        {address}: Python 3" in output, output
    assert f"{file}: nothing wrong found" in output, output
    text = file.read_text()
    # Ray waits for a silent host five times in a row, which takes it a minute; here twice.
    command = "~/venv/bin/ray start "
    started = f"RAY_health_check_failure_threshold=2 {command}--num-cpus=1 "
    started += "--object-store-memory=100000000 "
    assert text.count(command) == 2
    file.write_text(text.replace(command, started))
    return file


def joined(head: Host) -> str:
    """What `ray status` says once all workers are there, or after five minutes."""
    state = ""
    end = time.monotonic() + 300
    while "/3.0 CPU" not in state and time.monotonic() < end:
        state = head.run(". ~/sweep.env; ray status")
        time.sleep(1)
    return state


def results(folder: Path) -> dict[str, TrialResult]:
    found = [read_result(str(path)) for path in folder.glob("trials/*/result.json")]
    return {result.id: result for result in found}


@pytest.mark.timeout(1800)
def test_a_sweep_that_loses_a_host_ends_as_on_one_machine(hosts: Network, tmp_path: Path) -> None:
    grid, store, begin = hosts.folder / "grid.yaml", hosts.folder / "store", time.monotonic()

    def step(what: str) -> None:
        print(f"{time.monotonic() - begin:.0f} s: {what}")

    grid.write_text(GRID)
    for number, name in enumerate(("head", "one", "two"), start=1):
        hosts.add(name, number)
    step("three hosts")
    file = filled_in(hosts, store)
    step("filled in")
    print(hosts.user.run(f"ray up -y {file} 2>&1"))
    step("up")
    state = joined(hosts.hosts["head"])
    step("joined")
    assert "/3.0 CPU" in state, state
    asks = "unset RAY_AUTH_MODE; python -m sweep.run --grid demo --out /tmp/no --address auto 2>&1"
    refused = hosts.hosts["head"].run(f". ~/sweep.env; {asks}; test $? = 2")
    assert "10.78.0.1:6379 asks for a token; export RAY_AUTH_MODE=token" in refused
    step("refused without a token")

    command = f"python -m sweep.run --grid {grid} --out ~/run --address auto --store $SWEEP_STORE"
    log = tmp_path / "sweep.log"
    with log.open("wb") as stream:
        sweep = subprocess.Popen(
            hosts.user.command(f"ray exec {file} '{command}'"), stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 1000
        while not results(store) and sweep.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        before = results(store)
        assert 0 < len(before) < TRIALS, log.read_text()
        hosts.hosts["two"].cut()
        step(f"cut a host off, {len(before)} trials were done")
        assert sweep.wait(1000) == 0, log.read_text()
        step("swept")
    finally:
        sweep.kill()
        sweep.wait(30)
        print(log.read_text())
    hosts.user.run(f"ray down -y {file}")
    step("down")

    found = results(store)
    assert len(found) == TRIALS
    here = run(grid, tmp_path / "here", "--cpus", "2")
    assert here.code == 0, here.err
    step("the same on one machine")
    alone = results(here.folder)
    assert alone.keys() == found.keys()
    for trial, result in found.items():
        assert without_times(result) == without_times(alone[trial]), result.config
