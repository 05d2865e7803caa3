r"""The virtual environment of a node: unpacked from the store, or installed and kept there.

    python3 sweep/clusters/environment.py s3://BUCKET/PREFIX -- \\
      pip install -q -c constraints.txt '.[deepspeed,aws]'

To install takes minutes, which would be paid for at every reclaimed machine. So the first node
packs its ~/venv as PREFIX/environments/HASH.tar.zst, of which every later one has it. HASH is that
of the command, the pinned versions, Python's version and the processor: a change of them makes
another archive. The project itself is installed anew each time. Run it in the project's directory.

Runs before anything is installed: it uses Python's standard library alone, and the cloud's own
command to copy files. Where that is missing or fails, everything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

# Each takes a source and a target; `-` is the standard input or output.
COPY = {
    "s3": ["aws", "s3", "cp", "--no-progress"],
    "gs": ["gcloud", "storage", "cp", "--no-user-output-enabled"],
}
MARK = ".environment"  # in the environment: the hash of what it was made of


def identity(install: list[str]) -> str:
    """Hash of all that decides what is installed, but for the project's own code."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    parts = [
        *install,
        Path("constraints.txt").read_text(),
        str(project["dependencies"]),
        str(sorted(project["optional-dependencies"].items())),
        platform.python_version(),
        platform.machine(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def unpack(archive: str, venv: Path) -> bool:
    """Unpack the archive as `venv`; whether it was there and whole."""
    copy = COPY.get(archive.partition("://")[0])
    if copy is None:
        return False
    tar = shlex.join(["tar", "--extract", "--zstd", "-C", str(venv.parent)])
    command = f"{shlex.join([*copy, archive, '-'])} | {tar}"
    return _runs(command) and (venv / MARK).is_file()


def pack(venv: Path, archive: str) -> None:
    """Begin to keep `venv` in the store, in a process that goes on after this one."""
    copy = COPY.get(archive.partition("://")[0])
    if copy is None:
        return
    tar = shlex.join(["tar", "--create", "--zstd", "-C", str(venv.parent), venv.name])
    subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {tar} | {shlex.join([*copy, '-', archive])}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(venv.parent / "environment.log").open("ab"),
        start_new_session=True,
    )


def make(venv: Path, install: list[str]) -> None:
    """Make `venv` with all that the project needs. Raises: CalledProcessError."""
    shutil.rmtree(venv, ignore_errors=True)  # what an archive that was cut short has left
    subprocess.run(["python3", "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / install[0]), *install[1:]], check=True)


def install_project(venv: Path) -> None:
    """The project's own code as it is now. Raises: CalledProcessError."""
    pip = [str(venv / "bin" / "pip"), "install", "-q", "--no-deps", "--force-reinstall", "."]
    subprocess.run(pip, check=True)


def _runs(script: str) -> bool:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("store", help="s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    parser.add_argument("--venv", type=Path, default=Path.home() / "venv")
    parser.add_argument("install", nargs="+", help="-- pip install ...: what makes it")
    options = parser.parse_args()
    name, venv = identity(options.install), options.venv
    archive, mark = f"{options.store.rstrip('/')}/environments/{name}.tar.zst", venv / MARK
    made = mark.is_file() and mark.read_text() == name
    if made or unpack(archive, venv):
        install_project(venv)
        return 0
    make(venv, options.install)
    mark.write_text(name)
    pack(venv, archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
