"""A connection to a Ray cluster, or to a Ray that is started on this machine for it.

Nothing that this module imports needs torch, so that Ray can start before torch is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import utils
from ray._private.node import Node

from shards.building.ray_start import check_address, end_processes, keep_logs, prepare_local
from shards.support.command import one_line
from shards.support.environment import exported
from shards.support.plugins import keep_copies

START_ATTEMPTS = 2  # attempts to start a Ray cluster on this machine
OBJECT_STORE = 512 * 1024 * 1024  # bytes; what does not fit spills to disk
# Settings of Ray's, which a raylet reads when it starts. It ends workers that have been idle for a
# second where a core is reserved: those that have just imported what will run on this core.
PRELOAD, IDLE = "RAY_preload_python_modules", "RAY_idle_worker_killing_time_threshold_ms"
IDLE_MILLISECONDS = "60000"

# Methods of Ray's `Node` that start what a Ray of one machine has no use for: a server for usage
# statistics, which are off; the autoscaler; the collector of logs, which are not shown.
UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")


@contextlib.contextmanager
def connected(
    address: str | None,
    owner: str,
    cpus: int | None = None,
    store: int = OBJECT_STORE,
    logs: Path | None = None,
    plugins: Sequence[str] = (),
    preload: str = "",
) -> Iterator[None]:
    """Connect to the Ray cluster at `address`; with None, start one on this machine.

    A local cluster stops, and its temporary files are deleted, at the end of the `with` block.
    owner: any text that identifies the work, such as its output folder. Temporary files that a
    killed process with the same owner has left are deleted first. cpus: cores of a local cluster
    (default: all). store: size of its object store in bytes. logs: folder to which Ray's logs are
    copied if it does not start. plugins: MODULE@HASH of loaded plugins, which Ray brings to every
    node. preload: a module that each worker of a local cluster imports when it starts.

    Raises: ValueError where nothing answers at `address`, or the local cluster does not start.
    """
    if address is not None:
        check_address(address)
        with _runtime_env(plugins) as environment:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=environment,
            )
        try:
            yield
        finally:
            ray.shutdown()
        return
    prefix = f"ray-{hashlib.sha256(owner.encode()).hexdigest()[:6]}-"
    _remove_left(prefix)
    prepare_local()
    with _runtime_env(plugins) as environment:
        cores = cpus or os.cpu_count() or 1
        # Work that needs an environment runs in workers that are started for it.
        useful = preload and environment is None
        settings = {PRELOAD: preload, IDLE: IDLE_MILLISECONDS} if useful else {}
        with only_needed_processes(), exported(settings):
            temporary = _start_local(f"{prefix}{os.getpid()}-", cores, store, logs, environment)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left(prefix: str) -> None:
    """Delete folders PREFIX + PROCESS-NUMBER + ... of processes that have ended.

    One of this process's own number is left of an earlier program in it, see os.execv.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        number = left.name.removeprefix(prefix).partition("-")[0]
        if number == str(os.getpid()) or not (
            number.isdecimal() and psutil.pid_exists(int(number))
        ):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _runtime_env(plugins: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """What Ray's workers need besides this project; None where that is nothing.

    `ray.init` uploads the plugins, so that nodes need no file system in common. Workers find them
    on PYTHONPATH, and so do the processes that they start.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield {"py_modules": keep_copies(folder, plugins)} if plugins else None


@contextlib.contextmanager
def only_needed_processes() -> Iterator[None]:
    """Inside, `ray.init` starts no processes that are of no use here, and starts seconds sooner.

    `ray.init` has no options for them. The agent of each node is started as where the packages of
    Ray's dashboard are not installed, without a server: its port is fixed, and while the agent of
    a Ray that has died still has it, for up to a minute, another Ray waits seconds for it.
    """

    def nothing(self: Any, **options: Any) -> None:
        """In place of starting a process."""

    methods = {name: getattr(Node, name) for name in UNUSED if hasattr(Node, name)}
    missing = utils.get_dashboard_dependency_error
    for name in methods:
        setattr(Node, name, nothing)
    utils.get_dashboard_dependency_error = lambda: ImportError("not needed here")
    try:
        yield
    finally:
        utils.get_dashboard_dependency_error = missing
        for name, method in methods.items():
            setattr(Node, name, method)


def _start_local(
    prefix: str, cpus: int, store: int, logs: Path | None, environment: dict[str, Any] | None
) -> str:
    """Start a Ray on this machine and return the folder of its files, whose name has `prefix`.

    A start that fails is tried once more: on a busy machine Ray's processes may need longer than
    the 30 s that it waits for them.

    Raises: ValueError where the second attempt fails too.
    """
    reason = ""
    for _ in range(START_ATTEMPTS):
        temporary = tempfile.mkdtemp(prefix=prefix)  # Unix socket paths must stay short
        started = False
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=store,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=temporary,
                runtime_env=environment,
            )
            started = True
            return temporary
        except Exception as error:  # Ray raises the base class where its processes do not answer
            reason = f"{one_line(str(error))} ({keep_logs(temporary, logs)})"
        finally:
            if not started:
                ray.shutdown()
                end_processes(temporary)
                shutil.rmtree(temporary, ignore_errors=True)
    raise ValueError(f"Ray did not start on this machine in {START_ATTEMPTS} attempts: {reason}")
