"""Finished students in the model registry of a real MLflow server, loaded without pickle."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from shards.building.build import build
from shards.building.request import Request
from sweep.environment import set_defaults
from sweep.journal.registry import check_name
from sweep.journal.run_record import PlannedTrial, open_record, record_sweep
from sweep.journal.uploader import Uploader
from sweep.sync import main
from trainers.canonical import make_config
from trainers.results.folder import trial_folder
from trainers.results.loaded import load
from trainers.runner import run_trial

FIELDS = {
    "dataset": "digits",
    "teacher": "embedded",
    "train_samples": 64,
    "test_samples": 20,
    "duration": "1 steps",
    "probes": ["zero_shot"],
    "test_arms": [],
}
STUDENTS = ("width:1", "teacher_pca:8")  # the second has no network


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server with its own database and artifacts."""
    set_defaults()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # ten more processes
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        end = time.monotonic() + 180
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            log = (tmp_path / "server.log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < end, log
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(60)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[str]]:
    """(A run folder with its store in it, the identities of its finished trials, see STUDENTS.)"""
    folder, bank = tmp_path / "run", str(tmp_path / "bank")
    folder.mkdir()
    request = {"train_samples": 64, "test_samples": 20, "arms": ("clean",)}
    build(Request(dataset="digits", teachers=("embedded",), **request), bank)
    configs = [make_config(FIELDS | {"student": student}) for student in STUDENTS]
    record = open_record(folder, str(folder), "family")
    planned = PlannedTrial(steps=1, work=1.0, weight=1.0)
    record_sweep(str(folder), record, {config.identity: planned for config in configs})
    for config in configs:
        run_trial(config, bank, str(folder), device="cpu")
    return folder, [config.identity for config in configs]


def refuse(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("something was unpickled")


def versions(address: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    return list(MlflowClient(address).search_model_versions("name='students'"))


@pytest.mark.timeout(600)
def test_each_finished_student_is_one_version_that_loads_without_pickle(
    server: str, run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, (trial, _) = run
    command = [str(folder), "--tracking-uri", server, "--register", "students"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    (version,) = versions(server)
    assert (version.tags["sweep.trial"], version.tags["capacity"]) == (trial, "width:1")

    # Again, by the process that uploads beside a sweep: no second version.
    with Uploader(folder, "family", server, "students") as uploader:
        assert uploader.finish("FINISHED", patience=300) == []
    assert [one.version for one in versions(server)] == [version.version]

    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for module in (pickle, cloudpickle):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    place = str(tmp_path / "model")
    Path(place).mkdir()
    model = mlflow.pyfunc.load_model(f"models:/students/{version.version}", dst_path=place)
    files = {path.suffix for path in Path(place).rglob("*") if path.is_file()}
    assert files <= {"", ".yaml", ".txt", ".json", ".safetensors"}

    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    expected = load(trial_folder(str(folder), make_config(FIELDS | {"student": "width:1"})))(images)
    found = model.predict(images)
    assert found.shape == (5, 512)
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "it's", "#1", "a "])
def test_a_name_that_mlflow_does_not_take_is_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(ValueError, match="--register"):
        check_name(name)
    check_name("my students 2")
