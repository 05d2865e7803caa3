"""The environment of a node: installed once, then unpacked from the store, until its pins change.

pip and the cloud's command to copy files are stand-ins that work on local folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster
INSTALL = ["pip", "install", "-q", "-c", "constraints.txt", ".[deepspeed,aws]"]
TOOLS = {
    # aws s3 cp --no-progress SOURCE TARGET, one of which is `-`
    "aws": """\
[[ "$1 $2 $3" == "s3 cp --no-progress" ]] || exit 9
place() { echo "$BUCKETS/${1#s3://}"; }
if [[ $5 == - ]]; then cat "$(place "$4")"; else
  mkdir -p "$(dirname "$(place "$5")")"; cat > "$(place "$5").part"
  mv "$(place "$5").part" "$(place "$5")"; fi
""",
    "python3": """\
[[ "$1 $2" == "-m venv" ]] || exit 9
mkdir -p "$3/bin"
printf '#!/bin/bash\\necho "$@" >> "$LOG"\\n' > "$3/bin/pip"; chmod +x "$3/bin/pip"
""",
}


class Node:
    """A node with its home, and a copy of what `ray up` puts there."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.home, self.log = folder, folder / "pip.log"
        self.project = folder / "distilsweep"
        (self.project / "sweep" / "clusters").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "sweep/clusters/environment.py"):
            shutil.copy(ROOT / name, self.project / name)
        tools = folder / "tools"
        tools.mkdir()
        for name, script in TOOLS.items():
            (tools / name).write_text("#!/bin/bash\n" + script)
            (tools / name).chmod(0o755)
        self.environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder)}
        self.environment |= {"BUCKETS": str(shared), "LOG": str(self.log)}

    def set_up(self, store: str = "s3://bucket/sweep") -> list[str]:
        """What pip was called with."""
        self.log.unlink(missing_ok=True)
        command = [sys.executable, "sweep/clusters/environment.py", store, "--", *INSTALL]
        subprocess.run(command, cwd=self.project, env=self.environment, check=True)
        return self.log.read_text().splitlines()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    return tmp_path / "buckets"


def archives(shared: Path, count: int) -> list[Path]:
    """Those in the store, once there are so many: they are written after the set-up."""
    end = time.monotonic() + 30
    while True:
        found = sorted((shared / "bucket/sweep/environments").glob("*.tar.zst"))
        if len(found) >= count or time.monotonic() > end:
            return found
        time.sleep(0.05)


def test_later_nodes_unpack_what_the_first_installed(tmp_path: Path, shared: Path) -> None:
    first, second = Node(tmp_path / "one", shared), Node(tmp_path / "two", shared)
    (installed,) = first.set_up()
    assert installed == " ".join(INSTALL[1:])
    assert len(archives(shared, 1)) == 1
    (own,) = second.set_up()  # the project alone
    assert own == "install -q --no-deps --force-reinstall ."
    marks = [(node.home / "venv" / ".environment").read_text() for node in (first, second)]
    assert marks[0] == marks[1]
    assert "--no-deps" in first.set_up()[0]  # the same node again: nothing to install


def test_other_pins_are_another_environment(tmp_path: Path, shared: Path) -> None:
    first, second = Node(tmp_path / "one", shared), Node(tmp_path / "two", shared)
    first.set_up()
    archives(shared, 1)
    with (second.project / "constraints.txt").open("a") as file:
        file.write("\nnumpy==9.9\n")
    assert "--no-deps" not in second.set_up()[0]
    assert len(archives(shared, 2)) == 2


def test_an_archive_that_was_cut_short_is_made_again(tmp_path: Path, shared: Path) -> None:
    first, second = Node(tmp_path / "one", shared), Node(tmp_path / "two", shared)
    first.set_up()
    (archive,) = archives(shared, 1)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "--no-deps" not in second.set_up()[0]
    end = time.monotonic() + 30
    while len(archive.read_bytes()) <= len(whole) // 2 and time.monotonic() < end:
        time.sleep(0.05)
    third = Node(tmp_path / "three", shared)
    assert "--no-deps" in third.set_up()[0]


def test_without_the_cloud_s_command_everything_is_installed(tmp_path: Path, shared: Path) -> None:
    node = Node(tmp_path / "one", shared)
    os.remove(tmp_path / "one" / "tools" / "aws")
    assert "--no-deps" not in node.set_up()[0]
    assert "--no-deps" not in Node(tmp_path / "two", shared).set_up("/a/folder")[0]
