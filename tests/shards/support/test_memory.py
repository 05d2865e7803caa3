"""Free memory; memory that a process frees and takes again."""

import subprocess
import sys

import pytest

from shards.support.memory import free_memory


def test_free_memory_is_the_systems_or_what_a_control_group_leaves(tmp_path):
    assert 1 << 20 < free_memory() < 1 << 50
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     5000 kB\n")
    assert free_memory(tmp_path) == 5_120_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000000\n")
    for limit, left in (("max", 5_120_000), ("1500000", 500_000), ("900000", 0)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert free_memory(tmp_path) == left


ALLOCATE = """
import resource, sys
import numpy as np
from shards.support.memory import keep_freed_memory, keeping_freed_memory, release_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
if sys.argv[1] == "kept before":
    with keeping_freed_memory():
        np.ones(90_000_000, np.uint8)
sizes = [90_000_000, 40_000_000]
for _ in range(3):  # the first rounds map memory in either case
    arrays = [np.ones(size, np.uint8) for size in sizes]
    del arrays
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    arrays = [np.ones(size, np.uint8) for size in sizes]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
held = int(open("/proc/self/statm").read().split()[1])
release_memory()
print(held - int(open("/proc/self/statm").read().split()[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_used_again_and_given_back_on_request():
    faults, released = {}, {}
    for how in ("default", "keep", "kept before"):
        command = [sys.executable, "-c", ALLOCATE, how]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[how], released[how] = (int(line) for line in ended.stdout.split())
    # Huge pages make faults fewer than one a page of 4 KiB; the default still maps all anew.
    assert faults["keep"] < 0.02 * faults["default"] or faults["keep"] < 10
    assert faults["default"] > 100
    assert faults["kept before"] > 0.5 * faults["default"]
    assert released["keep"] * 4096 > 100_000_000


MAIN = """
import contextlib, importlib, resource, sys
with contextlib.suppress(OSError, SystemExit):
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"x" * 90_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(
    "command",
    [
        ["shards.build", "--dataset", "digits", "--teacher", "embedded", "--out", "x", "--dry-run"],
        ["trainers.trial", "missing.yaml", "--bank", "missing"],
        ["trainers.probe", "missing", "--probe", "spectrum"],
    ],
    ids=["build", "trial", "probe"],
)
def test_commands_that_compute_keep_what_they_free(command, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    faults = int(ended.stderr.splitlines()[-1])
    # Where memory is mapped anew each time, 22,000 pages of 4 KiB twenty times.
    assert faults < 5 * 22_000
