"""Gangs over two hosts: network namespaces with an address each, and a cable between them.

Nothing outside sees them. Each host has its processes, its interfaces and its folder of Ray's
files; they share the disk, as the nodes of a cluster share a store.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.sweep.torchrun import ROOT, by_torchrun
from tests.trainers.small_runs import without_times
from trainers.results.folder import read_result

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 6379
GRID = """\
name: two-hosts
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  ranks: 2
  epochs: 2
  train_samples: 64
  test_samples: 20
  batch_size: 16
  probes: [spectrum]
  test_arms: []
seeds: 1
resources: {placement: spread}
parts:
  - fixed: {engine: ddp}
"""
ZERO = "  - fixed: {engine: deepspeed, zero_stage: 1}\n"


class Hosts:
    """Two hosts. temporary: a folder, short because of socket paths, of which each has its own."""

    def __init__(self, temporary: str) -> None:
        self.temporary = temporary
        self._names = [f"distil-{os.getpid()}-{number}" for number in range(2)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def connect(self) -> None:
        """Make the hosts. Raises: CalledProcessError, OSError where that is not permitted."""
        for name in self._names:
            _ip(f"netns add {name}")
        first, second = self._names
        _ip(f"link add eth0 netns {first} type veth peer name eth0 netns {second}")
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip(f"-n {name} addr add {address}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {name} link set lo up")

    def start(self, number: int, script: str, log: Path) -> subprocess.Popen[bytes]:
        """Run a shell script on a host; what it starts ends with it."""
        mount = f"mount -t tmpfs tmpfs {self.temporary}"
        inside = ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-ec"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}
        with log.open("w") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._names[number], *inside, f"{mount}\n{script}"],
                stdout=stream,
                stderr=stream,
                env=env,
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End all processes of both hosts."""
        for process in self._processes:
            process.kill()
            process.wait(30)
        self._processes.clear()

    def end(self) -> None:
        self.stop()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    temporary = tempfile.mkdtemp(prefix="two-", dir="/tmp")
    hosts = Hosts(temporary)
    try:
        try:
            hosts.connect()
            hosts.start(0, "true", Path(temporary, "log")).wait(30)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this system lets nobody make network namespaces")
        yield hosts
    finally:
        hosts.end()
        shutil.rmtree(temporary, ignore_errors=True)


def swept(hosts: Hosts, grid: Path, folder: Path) -> tuple[int | None, str]:
    """A sweep over both hosts: (its exit status, what it and Ray wrote)."""
    head, other = ADDRESSES
    python = shlex.quote(sys.executable)
    ray = f"{python} -m ray.scripts.scripts start --num-cpus 1 --object-store-memory 80000000"
    start = f"{ray} --head --node-ip-address {head} --port {PORT} --temp-dir {hosts.temporary}"
    command = f"{python} -m sweep.run --grid {grid} --out {folder} --address {head}:{PORT}"
    joined = f"until (: < /dev/tcp/{head}/{PORT}) 2>/dev/null; do sleep 0.5; done"
    node = f"{ray} --address {head}:{PORT} --node-ip-address {other} --block"
    logs = [grid.with_name(name) for name in ("driver.log", "node.log")]
    driver = hosts.start(0, f"{start} --include-dashboard=false\n{command}", logs[0])
    other_host = hosts.start(1, f"{joined}\n{node}", logs[1])
    end = time.monotonic() + 1000
    while driver.poll() is None and other_host.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
    return driver.poll(), "\n".join(log.read_text() for log in logs)


@pytest.mark.timeout(1500)
def test_gangs_over_two_addresses_end_as_under_torchrun(hosts: Hosts, tmp_path: Path) -> None:
    folder, grid = tmp_path / "run", tmp_path / "grid.yaml"
    grid.write_text(GRID + (ZERO if find_spec("deepspeed") else ""))
    code, logs = swept(hosts, grid, folder)
    if "timed out during startup" in logs:  # Ray waits 30 s for itself: short on a busy machine
        hosts.stop()
        code, logs = swept(hosts, grid, folder)
    assert code == 0, logs

    results = [read_result(str(path)) for path in folder.glob("trials/*/result.json")]
    assert len(results) == GRID.count("engine") + bool(find_spec("deepspeed")), logs
    (bank,) = (folder / "banks").iterdir()
    for result in results:
        # One core on each host: the two ranks cannot have been on one.
        alone = by_torchrun(result.config, bank, tmp_path / result.config["engine"])
        assert without_times(result) == without_times(alone)
