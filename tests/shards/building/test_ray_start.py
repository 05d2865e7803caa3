"""A Ray that does not answer or does not start ends in one line and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
import ray

from shards.building import ray_connection
from shards.building.ray_connection import UNUSED, only_needed_processes
from shards.building.ray_start import TOKEN_VARIABLES, check_address, end_processes, prepare_local
from sweep.run import main


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of this machine that nothing listens on, and that nothing else takes meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_that_nobody_answers(closed: int, form: str) -> None:
    with pytest.raises(ValueError, match=r"nothing answers at .*Connection refused"):
        check_address(form.format(closed))


@pytest.mark.parametrize("address", ["somewhere", "host:", ":6379", "host:port"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=f"--address: `{address}`; write HOST:PORT"):
        check_address(address)


def test_one_that_answers_and_one_that_ray_looks_up_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")


def test_a_sweep_says_so_before_it_begins(
    closed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(["--grid", "demo", "--out", str(run), "--address", f"127.0.0.1:{closed}"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"127.0.0.1:{closed}" in line
    assert not run.exists()


def test_a_ray_that_does_not_start_is_tried_again_and_leaves_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def fail(*, _temp_dir: str, **options: Any) -> None:
        folders.append(Path(_temp_dir))
        (folders[-1] / "session_1" / "logs").mkdir(parents=True)
        (folders[-1] / "session_1" / "logs" / "raylet.out").write_text("out of luck\n")
        raise Exception("the node timed out\nduring startup")  # as Ray does

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(ValueError, match=r"Ray did not start .* 2 attempts: .*timed out") as e,
        ray_connection.connected(None, "owner", 1, logs=tmp_path / "run"),
    ):
        pass
    assert str(tmp_path / "run" / "ray_logs") in str(e.value)
    assert (tmp_path / "run" / "ray_logs" / "raylet.out").read_text() == "out of luck\n"
    assert len(folders) == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_only_processes_of_that_folder_are_ended(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        subprocess.Popen([*sleep, str(tmp_path / "mine")]) as mine,
        subprocess.Popen([*sleep, str(tmp_path / "other")]) as other,
    ):
        try:
            time.sleep(0.5)
            end_processes(str(tmp_path / "mine"))
            assert mine.poll() is not None
            assert other.poll() is None
        finally:
            other.kill()


def test_a_token_of_its_own_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOKEN_VARIABLES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    prepare_local()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    prepare_local()
    assert os.environ["RAY_AUTH_TOKEN"] == token
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/some/file")
    prepare_local()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_what_a_ray_of_one_machine_does_not_need_is_not_started() -> None:
    """Ray's own methods are back afterwards."""
    from ray._private.node import Node

    own = [getattr(Node, name) for name in UNUSED]  # Ray still has them all
    with only_needed_processes():
        for name, method in zip(UNUSED, own, strict=True):
            assert getattr(Node, name) is not method
            getattr(Node, name)(None, include_dashboard=False)
    assert [getattr(Node, name) for name in UNUSED] == own
