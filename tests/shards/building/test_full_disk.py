"""A disk that is full in the middle of a build."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from shards.building.build import build
from shards.building.request import Request

HERE = Path(__file__).parents[3]
BUILD = "import sys; from shards.build import main; main(sys.argv[1:])"


@pytest.mark.faults
def test_a_build_that_fills_the_disk_says_what_it_needs_and_goes_on_later(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    """The limit, which the kernel enforces, lets the smaller shard and all notes through."""
    sizes = sorted(file.stat().st_size for file in bank.glob("train-*.tar"))
    smaller = request_60.model_copy(update={"train_samples": 35})  # shards of 25, 10 and 20
    out, plain = tmp_path / "full", tmp_path / "plain"
    build(smaller, str(plain))
    limit = sizes[-1] - 1

    def fill(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BUILD, *smaller.arguments(str(out))],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    done = fill(limit)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 2
    assert line.startswith("error: ")
    assert f"no space to write {out}/train-000000.tar: {sizes[-1]:,} bytes needed," in line
    assert line.endswith("bytes free; make room, then run the same command again")
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(out)) == [".lock", "plan.json"]

    done = fill(sizes[-1])  # room again, for all but what nobody needs
    assert done.returncode == 0, done.stderr
    for file in plain.iterdir():
        if file.name not in (".lock", "manifest.json"):
            assert (out / file.name).read_bytes() == file.read_bytes()
    made = json.loads((out / "manifest.json").read_text())
    assert made["shards"] == json.loads((plain / "manifest.json").read_text())["shards"]


# On a file system of its own, which another program fills while the build is at work.
FILLED = """\
import os, sys
from pathlib import Path
import shards.building.build as module
from shards.build import main
check, out = module._check_space, sys.argv[-1]
filler = Path(out).parent / "filler"

def fill(plan, writer):
    check(plan, writer)
    disk = os.statvfs(out)
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - 300_000))

module._check_space = fill
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print("found", ended.code, *sorted(os.listdir(out)))
filler.unlink()
module._check_space = check
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print("found", ended.code, *sorted(os.listdir(out)))
for file in sorted(Path(out).glob("*.tar")):
    print("found", file.read_bytes() == (Path(PLAIN) / file.name).read_bytes())
"""


def mounted(size: str, at: Path) -> list[str]:
    """How to run a command where a tmpfs of `size` is mounted, for it alone, at a folder."""
    at.mkdir()
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = f'mount -t tmpfs -o size={size} none "{at}"'
    if subprocess.run([*unshare, mount], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of his own")
    return [*unshare, f'{mount} && exec "$0" "$@"']


@pytest.mark.faults
def test_a_file_system_that_is_filled_during_a_build(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    command = mounted("4m", tmp_path / "small")
    code = FILLED.replace("PLAIN", repr(str(bank)))
    arguments = request_60.arguments(f"{tmp_path}/small/bank")
    done = subprocess.run(
        [*command, sys.executable, "-c", code, *arguments],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "small/bank/train-000001.tar: " in line
    assert "bytes needed" in line
    assert "Traceback" not in done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    shards = "test-000000.tar train-000000.tar train-000001.tar train-000002.tar"
    assert found == [
        "found 2 .lock plan.json shards.json train-000000.tar",
        f"found 0 .lock manifest.json plan.json {shards}",
        *["found True"] * 4,
    ]


@pytest.mark.faults
def test_a_small_file_system_is_refused_before_anything_is_computed(
    request_60: Request, tmp_path: Path
) -> None:
    command = mounted("128k", tmp_path / "small")
    arguments = request_60.arguments(f"{tmp_path}/small/bank")
    done = subprocess.run(
        [*command, sys.executable, "-c", BUILD, *arguments],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "bytes needed for the shards" in done.stderr
    assert "bytes free" in done.stderr
    assert "Traceback" not in done.stderr
