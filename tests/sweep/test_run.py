"""Whole sweeps on a real Ray."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweep.journal.tracking import PARENT, TRIAL
from sweep.planning.banks import plan_banks
from sweep.planning.expand import expand
from sweep.planning.grid import read_grid
from sweep.run import main
from trainers.config.schema import TrialConfig
from trainers.results.folder import read_result

pytestmark = pytest.mark.ray


def trials(text: str) -> list[TrialConfig]:
    return expand(read_grid(text, "small.yaml", "small"))


def results(folder: Path) -> dict[str, int]:
    """{trial: when its result was written}"""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("trials/*/result.json")}


def test_a_small_sweep_finishes_every_trial_once(swept: Any, tools: Any) -> None:
    assert swept.code == 0, swept.err
    wanted = {config.identity for config in trials(tools.text)}
    assert results(swept.folder).keys() == wanted
    rows = [line.split() for line in swept.out.splitlines() if line.startswith("width:1")]
    assert [row[:2] for row in rows] == [["width:1", "clean"], ["width:1", "noise:0.1"]]
    assert any(line.startswith("teacher") for line in swept.out.splitlines())
    for kind, each in (("start", 1), ("result", 1), ("epoch", 2)):
        found = Counter(event["trial"] for event in tools.events(swept.folder, kind))
        assert found == dict.fromkeys(wanted, each)


def test_it_says_little_and_what_matters(swept: Any) -> None:
    lines = swept.err.splitlines()
    known = ("teacher ", "trials ", "report: ", "compare: ", "mlflow: ", "claims: ", "claim: ")
    assert all(line.startswith(known) for line in lines), lines
    assert lines[-1].startswith("compare: then open http://127.0.0.1:5000/#/experiments/1/runs?")
    bars = [line for line in lines if line.startswith("trials ")]
    assert re.search(r"ETA \d+:\d\d +0/4 trials", bars[0])  # from the first second
    assert "100%" in bars[-1]
    assert lines.index(bars[0]) > max(i for i, v in enumerate(lines) if v.startswith("teacher "))


def test_claims_are_frozen_before_the_first_trial_and_judged_at_the_end(
    swept: Any, grid: Path, tools: Any
) -> None:
    text = grid.with_suffix(".claims.yaml").read_text()
    file = swept.folder / "claims.json"
    (declared,) = json.loads(file.read_text())["declarations"]
    assert declared["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert set(declared["trials"]) == {config.identity for config in trials(tools.text)}
    assert (declared["text"], declared["begun"], declared["results"]) == (text, False, 0)
    begun = min(event["time_ms"] for event in tools.events(swept.folder, "start"))
    assert file.stat().st_mtime_ns <= begun * 1_000_000 + 999_999
    assert "2 seeds cannot decide a family of 1 at 0.05; 6 can: --seeds 6" in swept.err
    assert re.search(r"the noise arm changes the rank +undecidable", swept.out)
    report = (swept.folder / "report.html").read_text()
    assert "the noise arm changes the rank" in report
    assert "undecidable at this n" in report


def test_mlflow_has_every_trial(swept: Any) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{swept.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = [run for run in runs if PARENT in run.data.tags]
    assert len(runs) == len(children) + 1 == 5
    for run in children:
        file = swept.folder / "trials" / run.data.tags[TRIAL] / "result.json"
        result = read_result(str(file))
        assert {k: run.data.metrics[k] for k in result.metrics} == result.metrics
        assert not any(name.startswith("teacher") for name in run.data.metrics)
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [row.value for row in history] == [row.loss for row in result.epochs]


def test_again_trains_nothing(swept: Any, grid: Path, tools: Any) -> None:
    before, journal = results(swept.folder), (swept.folder / "journal.jsonl").read_bytes()
    again = tools.run(grid, swept.folder)
    assert not [line for line in again.err.splitlines() if line.startswith("trials ")]
    assert (again.code, again.out) == (0, swept.out)
    assert results(swept.folder) == before
    assert (swept.folder / "journal.jsonl").read_bytes() == journal


def test_a_new_value_runs_only_what_is_new(swept: Any, tools: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(swept.folder, folder)
    before = results(folder)
    grown = tmp_path / "small.yaml"
    grown.write_text(tools.text.replace("[width:1]", "[width:1, width:0.5]"))
    ran = tools.run(grown, folder, "--seeds", "1")
    assert ran.code == 0, ran.err
    after = results(folder)
    assert before.items() < after.items()
    assert len(after) == 6
    assert Counter(e["trial"] for e in tools.events(folder, "result")) == dict.fromkeys(after, 1)
    new = {config.identity for config in trials(grown.read_text()) if config.seed == 0}
    assert after.keys() - before.keys() == new - before.keys()


def test_a_trial_alone_measures_the_same(swept: Any, tools: Any, tmp_path: Path) -> None:
    config = trials(tools.text)[-1]
    places, jobs = plan_banks([config], str(swept.folder))
    assert not jobs
    spec = tmp_path / "trial.yaml"
    spec.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "trainers.trial", str(spec), "--out", str(tmp_path)]
    command += ["--bank", places[config.identity], "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    place = Path("trials") / config.identity
    alone, swept_one = (
        read_result(str(root / place / "result.json")) for root in (tmp_path, swept.folder)
    )
    assert alone.probes == swept_one.probes
    losses = [[row.loss for row in result.epochs] for result in (alone, swept_one)]
    assert losses[0] == losses[1]
    weights = [r / place / "student" / "student.safetensors" for r in (tmp_path, swept.folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_failing_trial_and_a_gang_beside_it(tools: Any, tmp_path: Path) -> None:
    text = tools.text.replace("[clean, noise:0.1]", "[clean]").replace("seeds: 2", "seeds: 1")
    text += "exclude:\n  - {engine: single, ranks: 2}\n  - {engine: ddp, ranks: 1}\n"
    text += "  - {engine: ddp, lr: 1e6}\n"  # of such a rate the loss becomes infinite
    text = text.replace(
        "axes:\n", "axes:\n  engine: [single, ddp]\n  ranks: [1, 2]\n  lr: [0.001, 1e6]\n"
    ).replace("fixed:\n", "fixed:\n  objective: mse\n  optimizer: sgd\n")
    grid, folder = tmp_path / "mixed.yaml", tmp_path / "run"
    grid.write_text(text)
    by_rate = {(c.engine, c.lr): c.identity for c in trials(text)}
    bad = by_rate.pop(("single", 1e6))
    ran = tools.run(grid, folder, "--cpus", str(min(2, os.cpu_count() or 1)))
    assert ran.code == 1
    assert results(folder).keys() == set(by_rate.values())
    said = [line for line in ran.err.splitlines() if line.startswith("failed: ")]
    assert len(said) == 1
    assert bad in said[0]
    assert "diverged at step" in said[0]
    assert "Traceback" not in ran.err
    assert [e["trial"] for e in tools.events(folder, "failed")] == [bad]  # not tried again
    assert Counter(e["trial"] for e in tools.events(folder, "result")) == dict.fromkeys(
        by_rate.values(), 1
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--cpus", "9999"], ["--cpus", "9999", str(os.cpu_count())]),
        (["--cpus", "1", "--set", "threads=7"], ["7 CPU", "there are 1"]),
        pytest.param(
            # 200 train images: as many ranks as a batch of two images each allows.
            ["--set", "engine=ddp", "--set", "ranks=100", "--set", "batch_size=200"],
            ["100 CPU", f"there are {os.cpu_count()}"],
            marks=pytest.mark.thorough,
        ),
        pytest.param(["--gpus-per-trial", "99"], ["99 GPU"], marks=pytest.mark.thorough),
        (["--cpus", "0"], ["--cpus", "at least 1"]),
        (["--max-concurrent", "0"], ["--max-concurrent", "at least 1"]),
        (["--store", "ftp://somewhere"], ["ftp"]),
    ],
)
def test_asking_for_more_resources_than_exist_is_one_line(
    options: list[str],
    parts: list[str],
    grid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--grid", str(grid), "--out", str(tmp_path / "run"), *options])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(part in lines[0] for part in parts)
    assert not (tmp_path / "run" / "banks").exists()
