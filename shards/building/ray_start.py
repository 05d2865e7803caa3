"""What has to be right around Ray before it starts: its address, its token, its processes."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path

import psutil

CONNECT_SECONDS = 15.0  # Ray itself tries for minutes where nothing answers
# Ray's own ways to say which token it uses. Without them it writes one into the home directory.
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
# A raylet on a busy machine takes longer than Ray's default of 30 s to answer its first calls.
START_SECONDS = {"RAY_raylet_start_wait_time_s": "120"}


def check_address(address: str) -> None:
    """Check that something answers at `HOST:PORT` or `ray://HOST:PORT`; `auto` is left to Ray.

    Raises: ValueError, after CONNECT_SECONDS at most, with the reason.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdecimal():
        raise ValueError(f"--address: `{address}`; write HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--address: nothing answers at {address} ({error}); start Ray there with `ray start "
            "--head`, or correct the address"
        ) from None


def prepare_local() -> None:
    """Set what a Ray that this process starts reads from the environment, unless it is set.

    A random token of its own keeps the home directory out of it, which containers with an
    arbitrary user cannot write. It stays set, for Ray reads it once in each process.
    """
    for name, value in START_SECONDS.items():
        os.environ.setdefault(name, value)
    if not any(os.environ.get(name) for name in TOKEN_VARIABLES):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def end_processes(folder: str) -> None:
    """End the children of this process that have the path `folder` in their command line.

    A Ray whose start failed leaves its processes running until this one ends.
    """
    found: list[psutil.Process] = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(folder in part for part in child.cmdline()):
                found.append(child)
                child.kill()
        except psutil.Error:
            continue  # it has ended by itself
    psutil.wait_procs(found, timeout=10)


def keep_logs(temporary: str, folder: Path | None) -> str:
    """Copy the logs of a Ray in `temporary` to FOLDER/ray_logs; a clause that says where they are.

    Without a folder the clause quotes the last line that Ray wrote.
    """
    found = sorted(Path(temporary).glob("session_*/logs/*"), key=lambda path: path.stat().st_mtime)
    files = [path for path in found if path.is_file() and path.stat().st_size]
    if folder is not None:
        kept = folder / "ray_logs"
        kept.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, kept / path.name)
        return f"its log is in {kept}"
    lines = files[-1].read_text(errors="replace").strip().splitlines() if files else []
    return f"its log ends: {lines[-1]}" if lines else "it wrote no log"
