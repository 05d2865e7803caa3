"""A Ray that starts before anything else is imported, and whose first workers import meanwhile."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import sweep.run
from shards.support.environment import exported
from sweep.planning.grid import most_trials, read_grid
from sweep.planning.settings import override
from sweep.running import build_process, connection

GRID = """\
name: small
fixed: {dataset: digits, teacher: embedded}
axes: {student: ["width:1", "width:2"], arm: [clean, "noise:0.1"]}
seeds: 3
"""


def test_as_many_workers_import_as_there_are_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweep.running import preloaded

    seen: list[tuple[str, str | None, list[str]]] = []

    def import_module(name: str) -> None:
        locks = sorted(path.name for path in tmp_path.glob("*.lock"))
        seen.append((name, os.environ.get("OMP_NUM_THREADS"), locks))

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(importlib, "import_module", import_module)
    assert [preloaded.preload(tmp_path, 2, cores=2) for _ in range(3)] == [True, True, False]
    first = "preloading-0.lock"  # of two cores one is left to the driver
    assert seen == [("sweep.running.trial_actor", "1", [first])] * 2
    assert "OMP_NUM_THREADS" not in os.environ
    assert not preloaded.preload(tmp_path / "not there", 0, cores=2)


def test_variables_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_VARIABLE", "before")
    monkeypatch.delenv("ANOTHER", raising=False)
    with exported({"A_VARIABLE": "inside", "ANOTHER": "inside"}):
        assert (os.environ["A_VARIABLE"], os.environ["ANOTHER"]) == ("inside", "inside")
        del os.environ["ANOTHER"]
    assert os.environ["A_VARIABLE"] == "before"
    assert "ANOTHER" not in os.environ


def test_folders_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shards.building.ray_connection import _remove_left

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = next(pid for pid in range(100_000, 4_000_000) if not psutil.pid_exists(pid))
    kept = {f"ray-abc-{os.getppid()}-x", f"ray-other-{dead}-x", "ray-abc"}
    for name in kept | {f"ray-abc-{dead}-x", f"ray-abc-{os.getpid()}-x", "ray-abc-old"}:
        (tmp_path / name).mkdir()
    _remove_left("ray-abc-")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "ray-abc-old"}


def started_for(
    store: Path, monkeypatch: pytest.MonkeyPatch, *settings: str, **options: Any
) -> list[tuple[Any, ...]]:
    """What was started at once for a sweep of GRID in `store`: a Ray, a build's process."""
    starts: list[tuple[Any, ...]] = []

    @contextmanager
    def started_at_once(*arguments: Any) -> Iterator[None]:
        starts.append(arguments)
        yield

    @contextmanager
    def ready_to_build(teachers: list[str]) -> Iterator[None]:
        starts.append(("build", *teachers))
        yield

    monkeypatch.setattr(connection, "started_at_once", started_at_once)
    monkeypatch.setattr(build_process, "ready_to_build", ready_to_build)
    given = argparse.Namespace(**({"address": None, "cpus": 3} | options))
    grid = override(read_grid(GRID, "test", "test"), settings, None)
    with sweep.run._begun_at_once(grid, store, str(store), given):
        return starts


def test_what_a_sweep_needs_starts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_trials(read_grid(GRID, "test", "test")) == 12
    new = [(3, tmp_path, [], 12)]
    assert started_for(tmp_path, monkeypatch) == [("build", "embedded"), *new]
    assert started_for(tmp_path, monkeypatch, "precision=auto") == []
    (tmp_path / "banks" / "one").mkdir(parents=True)
    assert started_for(tmp_path, monkeypatch) == new
    for trial in ("one", "two"):
        (tmp_path / "trials" / trial).mkdir(parents=True)
    (tmp_path / "trials" / "one" / "result.json").touch()
    assert started_for(tmp_path, monkeypatch) == new
    assert started_for(tmp_path, monkeypatch, address="auto") == []
    (tmp_path / "trials" / "two" / "result.json").touch()
    assert started_for(tmp_path, monkeypatch) == []


@pytest.mark.ray
def test_an_actor_finds_its_imports_done(tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=1)
    class Actor:
        def imported(self) -> bool:
            return "sweep.running.trial_actor" in sys.modules

    found: list[bool] = []
    for trials in (1, 0):
        with connection.started_at_once(1, tmp_path, (), trials):
            # As a sweep does later; it does not connect again.
            with connection.connected(None, 1, tmp_path, (), trials):
                found.append(ray.get(Actor.remote().imported.remote(), timeout=120))  # pyright: ignore
            assert ray.is_initialized()
        assert not ray.is_initialized()
    assert found == [True, False]
    assert connection.COUNT not in os.environ
