"""The build of banks beside the start of Ray: its end, its errors, and leaving it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from shards.bank.manifest import MANIFEST
from shards.support.lease import is_stop_requested, ours, request_stop, take
from sweep.planning.banks import BankJob, plan_banks
from sweep.running.build_process import ready_to_build
from sweep.running.building import Builds
from sweep.running.holding import FOLDER
from sweep.running.stopping import Stopping
from trainers.canonical import make_config

FIELDS = {"teacher": "embedded", "student": "width:1", "train_samples": 64, "test_samples": 20}


def jobs(store: Path, dataset: str = "digits") -> list[BankJob]:
    return plan_banks([make_config(FIELDS | {"dataset": dataset})], str(store))[1]


def builders() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "shards.build" in " ".join(p.cmdline())]


def test_it_waits_until_the_banks_are_there(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    with Builds([job], str(tmp_path)) as build:
        build.wait()
        assert Path(job.location, MANIFEST).exists()
    with Builds([], str(tmp_path)) as build:
        build.wait()


def test_what_cannot_be_built_ends_the_sweep(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (job,) = jobs(tmp_path)
    Path(job.location).parent.mkdir()
    Path(job.location).write_text("a file where the bank should be")
    with Builds([job], str(tmp_path)) as build, pytest.raises((SystemExit, OSError)):
        build.wait()
    assert job.location in capfd.readouterr().err


def test_leaving_ends_the_process_of_the_build(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    with Builds([job], str(tmp_path)):
        end = time.monotonic() + 30
        while not (found := builders()) and time.monotonic() < end:
            time.sleep(0.01)
        assert len(found) == 1
    assert not any(process.is_running() for process in found)
    assert not Path(job.location, MANIFEST).exists()


def test_a_request_to_stop_ends_the_build_within_seconds(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    place = str(tmp_path / FOLDER)
    with take(place, ours("sweep")), Builds([job], str(tmp_path)) as build:
        stopping = Stopping(str(tmp_path), lambda: is_stop_requested(place), list)
        end = time.monotonic() + 30
        while not (found := builders()) and time.monotonic() < end:
            time.sleep(0.01)
        request_stop(place)
        with stopping.during(build.stop):
            build.wait()
        assert stopping.requested
        assert not build.failed
    assert found
    assert not any(process.is_running() for process in found)
    assert not Path(job.location, MANIFEST).exists()


def test_leaving_does_not_wait_for_the_build_of_another_sweep(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    place = tmp_path / "bank-leases" / Path(job.location).name
    with take(str(place), ours("bank")):
        start = time.monotonic()
        with Builds([job], str(tmp_path)):
            time.sleep(0.2)
        assert time.monotonic() - start < 30
        assert not builders()


def test_a_process_that_imports_beforehand_builds_the_first_bank(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path)
    with ready_to_build(["embedded", "a plugin's"]):
        (prepared,) = builders()
        with Builds([job], str(tmp_path)) as build:
            end = time.monotonic() + 60
            while not Path(job.location).exists() and time.monotonic() < end:
                time.sleep(0.01)
            assert builders() == [prepared]
            build.wait()
        assert Path(job.location, MANIFEST).exists()
        assert not prepared.is_running()


def test_one_that_is_not_needed_or_has_been_killed_is_done_without(tmp_path: Path) -> None:
    with ready_to_build([]):
        (unused,) = builders()
    assert not unused.is_running()
    (job,) = jobs(tmp_path)
    with ready_to_build([]):
        (killed,) = builders()
        killed.kill()
        psutil.wait_procs([killed])
        with Builds([job], str(tmp_path)) as build:
            build.wait()
    assert Path(job.location, MANIFEST).exists()
