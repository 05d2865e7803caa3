"""A bank computed by workers on a real Ray is, byte for byte, the bank of one process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from PIL import Image

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
import ray

from shards.building.build import build
from shards.building.embed import Embedder
from shards.building.executor import tasks_of
from shards.building.ray_workers import (
    RayExecutor,
    Worker,
    build_on_connected_ray,
    connected,
)
from shards.building.request import Request

pytestmark = pytest.mark.ray
HERE = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected(None, "test_on_ray", cpus=2, store=100 * 1024 * 1024):
        yield


def test_the_cluster_has_the_processes_that_it_needs_and_no_others(cluster) -> None:
    children = psutil.Process().children(recursive=True)
    commands = [" ".join(child.cmdline()) for child in children]
    assert any("gcs_server" in command for command in commands)
    unused = ("dashboard/dashboard.py", "log_monitor.py", "monitor.py")
    assert not [command for command in commands if any(name in command for name in unused)]


def shards(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.suffix == ".tar"}


def identity(folder: Path) -> str:
    from shards.bank.reader import load_manifest

    return load_manifest(str(folder)).identity


def test_workers_make_the_bytes_of_one_process(
    bank: Path, request_60: Request, cluster, tmp_path: Path, capsys
) -> None:
    manifest = build_on_connected_ray(
        request_60, str(tmp_path / "spread"), workers=3
    )  # room for two
    assert shards(tmp_path / "spread") == shards(bank)
    assert identity(tmp_path / "spread") == identity(bank)
    assert "100%" in capsys.readouterr().err
    rates = [float(manifest.created[name]) for name in ("images/s", "teacher alone, images/s")]
    assert 0 < rates[0] < rates[1]


@pytest.mark.slow
def test_workers_measure_the_teachers_as_one_process_does(
    copy: Path, request_60: Request, cluster, tmp_path: Path
) -> None:
    request = request_60.model_copy(update={"teacher_robustness": ("noise:0.2", "contrast:4")})
    here = Path(shutil.copytree(copy, tmp_path / "here"))
    spread_out = build_on_connected_ray(request, str(copy)).robustness
    alone = build(request, str(here)).robustness
    assert spread_out is not None
    assert spread_out == alone
    assert shards(copy) == shards(here)


@pytest.mark.slow
def test_what_is_there_is_not_computed_again(bank: Path, copy: Path, request_60, cluster) -> None:
    (copy / "manifest.json").unlink()
    (copy / "train-000001.tar").unlink()
    before = (copy / "train-000000.tar").stat().st_ino
    (copy / "shards.json").write_text(
        "[" + ",".join(r.model_dump_json() for r in _records(bank)) + "]"
    )
    build_on_connected_ray(request_60, str(copy))
    assert shards(copy) == shards(bank)
    assert (copy / "train-000000.tar").stat().st_ino == before


def _records(bank: Path):
    from shards.bank.reader import load_manifest

    return load_manifest(str(bank)).shards


def test_a_workers_error_is_one_line(cluster, tmp_path: Path, refused) -> None:
    asked = Request(dataset=f"folder:{tmp_path}/nothing", teachers=("embedded",))
    refused(
        lambda: build_on_connected_ray(asked, str(tmp_path / "out")),
        "nothing",
        "expected train/<class>/",
    )


@pytest.mark.faults
def test_a_worker_that_dies_is_replaced(
    bank: Path, request_60: Request, cluster, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                try:
                    if "ray::Worker" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return
                except psutil.Error:
                    continue
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    build_on_connected_ray(request_60, str(tmp_path / "spread"), workers=2)
    killer.join()
    assert killed
    assert shards(tmp_path / "spread") == shards(bank)


@pytest.mark.slow
@pytest.mark.faults
def test_a_worker_that_chose_and_died_computes_in_what_it_chose(
    request_60: Request, cluster, tmp_path: Path, monkeypatch
) -> None:
    class Moody(Worker):
        """Chooses bf16 the first time, fp32 whenever it is asked again."""

        def _embedder(self, precisions):
            from shards.building import embed
            from shards.teachers.precision import Choice

            def choose(*arguments) -> Choice:
                asked = tmp_path / "asked"
                again = asked.exists()
                asked.touch()
                return Choice("fp32" if again else "bf16")

            embed.choose_precision = choose
            return super()._embedder(precisions)

        def pid(self) -> int:
            return os.getpid()

    monkeypatch.setattr("shards.building.ray_workers.Worker", Moody)
    place = RayExecutor(request_60, "cpu", {}, workers=1)
    assert place.plan.teachers[0].precision == "bf16"
    os.kill(ray.get(place._first.pid.remote()), signal.SIGKILL)
    there = dict(place.shards(tasks_of(place.plan), lambda images: None))
    here = Embedder(request_60, "cpu", {"embedded": "bf16"})
    assert there == dict(here.shards(tasks_of(here.plan), lambda images: None))
    assert place.class_embeddings() == here.class_embeddings()


@pytest.mark.slow
def test_what_a_data_set_leaves_out_is_reported_by_the_driver_once(
    cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray shows nothing of what workers print."""
    for index, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / place).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (32, 32), (60 * index, 60 * number, 0))
            image.save(tmp_path / place / f"{number}.png")
    (tmp_path / "train/a/.hidden").touch()
    request = Request(dataset=f"folder:{tmp_path}", teachers=("embedded",), test_arms=())
    for _ in range(2):
        RayExecutor(request, "cpu", {}, workers=1)
    line = f"dataset folder:{tmp_path}: hidden files left out: 1 (first `train/a/.hidden`)\n"
    assert capsys.readouterr().err.count(line) == 1


def test_the_command_starts_a_ray_of_its_own_and_leaves_nothing(
    bank: Path, request_60: Request, tmp_path: Path
) -> None:
    out, fields = tmp_path / "out", request_60.model_dump_json()
    command = [sys.executable, "-m", "shards.build", "--request", fields, "--out", str(out)]
    environment = os.environ | {"TMPDIR": "/tmp"}
    done = subprocess.run(
        [*command, "--ray", "--workers", "2"], cwd=HERE, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shards(out) == shards(bank)
    assert re.search(r"^teacher alone, images/s: \d", done.stdout, re.M)
    build(request_60, str(out))  # it is the finished bank that was asked for
