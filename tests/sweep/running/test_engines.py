"""A grid over all engines under Tune: trials of one rank and of two, side by side."""

import contextlib
import sys
import time
from importlib.util import find_spec

import psutil
import pytest

from sweep.planning.expand import expand
from sweep.planning.grid import read_grid
from sweep.planning.resources import Resources, check_fits
from sweep.running import channel, trial_actor
from sweep.running.waiting import RETRIES
from trainers.canonical import make_config
from trainers.engines.launch import UNANSWERED, RankError
from trainers.engines.watchdog import STUCK
from trainers.results.folder import read_result
from trainers.training.divergence import DivergedError
from trainers.training.preemption import PreemptedError

FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
GRID = """\
name: engines
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  train_samples: 200
  test_samples: 60
  batch_size: 50
  probes: [linear]
  test_arms: [noise:0.1]
  epochs: {epochs}
  zero_stage: 3
axes:
  engine: [{engines}]
  ranks: [1, 2]
exclude:
  - {{engine: single, ranks: 2}}
  - {{engine: ddp, ranks: 1}}
  - {{engine: deepspeed, ranks: 1}}
"""


def results(folder):
    found = [read_result(str(path)) for path in folder.glob("trials/*/result.json")]
    return {result.config["engine"]: result for result in found}


@pytest.mark.ray
@pytest.mark.slow  # test_cluster.py has a trial of each engine, on several nodes
@pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")
def test_a_grid_over_all_engines(tools, tmp_path):
    grid = tmp_path / "engines.yaml"
    grid.write_text(GRID.format(engines="single, ddp, deepspeed", epochs=1))
    ran = tools.run(grid, tmp_path / "run", "--cpus", "2")
    assert ran.code == 0, ran.err
    found = results(ran.folder)
    assert {name: result.config["ranks"] for name, result in found.items()} == {
        "single": 1,
        "ddp": 2,
        "deepspeed": 2,
    }
    losses = {name: result.epochs[-1].loss for name, result in found.items()}
    assert losses["ddp"] == pytest.approx(losses["single"], rel=1e-2)
    assert found["deepspeed"].config["zero_stage"] == 3
    assert losses["deepspeed"] == pytest.approx(losses["ddp"], rel=1e-3)
    assert len(tools.events(ran.folder, "result")) == 3


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
def test_a_trial_whose_rank_is_killed_goes_on(tools, tmp_path):
    grid, folder = tmp_path / "engines.yaml", tmp_path / "run"
    grid.write_text(GRID.format(engines="ddp", epochs=300))
    driver = tools.start(grid, folder, "--cpus", "2")
    end = time.monotonic() + 200
    parents: dict[int, int] = {}  # {rank 1, and the one that is started after it: its parent}
    while len(parents) < 2 and driver.poll() is None and time.monotonic() < end:
        if tools.events(folder, "epoch"):
            for process in psutil.Process(driver.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.name().startswith("rank 1:") and process.pid not in parents:
                        parents[process.pid] = process.ppid()
                        if len(parents) == 1:
                            process.kill()
        time.sleep(0.1)
    assert len(parents) == 2
    assert len(set(parents.values())) == 1  # both were forked from one process
    assert driver.wait(timeout=250) == 0
    assert tools.events(folder, "failed") == []
    assert len(tools.events(folder, "result")) == 1
    assert results(folder)["ddp"].epochs[-1].epoch == 300


NO_ANSWER = ConnectionError("500")
ENDS = [
    (RankError(0, STUCK, "it waited"), "store", "died"),
    (RankError(0, -9, "it waited"), "store", "died"),
    (RankError(0, UNANSWERED, "s3://store: SlowDown"), "s3://store", "died"),
    (RankError(0, 1, "it waited"), "store", "failed"),
    (PreemptedError("state saved"), "store", "preempted"),
    (DivergedError("at step 3"), "store", "failed"),
    (ValueError("a\nb"), "s3://store", "failed"),
    (NO_ANSWER, "s3://store", "died"),
    (NO_ANSWER, "store", "failed"),
    (FileNotFoundError("no bank"), "s3://store", "failed"),
]


@pytest.mark.parametrize(("error", "store", "outcome"), ENDS)
def test_what_is_tried_again_and_what_is_an_outcome(monkeypatch, error, store, outcome):
    def run_trial(*arguments, **how):
        raise error

    reported = []
    job = {"config": FIELDS, "bank": "", "store": store, "token": "", "gone": [], "how": {}}
    monkeypatch.setattr(channel, "document", lambda sweep, trial: job)
    monkeypatch.setattr(trial_actor, "run_trial", run_trial)
    monkeypatch.setattr(trial_actor.tune, "report", reported.append)
    with contextlib.nullcontext() if outcome == "failed" else pytest.raises(RuntimeError):
        trial_actor.trainable({"sweep": "s", "trial": "t", "deaths": 0})
    (row,) = reported
    assert row["outcome"] == outcome
    assert row["error"] == f"{type(error).__name__}: {' '.join(str(error).split())}"


@pytest.mark.parametrize(
    ("before", "epochs", "free", "kinds"),
    [
        (0, (1, 1, 1), True, ["epoch", "death", "epoch", "death", "epoch", "finished"]),
        (0, (1, 0, 1), True, ["epoch", "death", "died"]),  # the second one never trained
        (0, (1, 1, 1), False, ["epoch", "died"]),  # an actor of a rank is gone
        (RETRIES - 1, (1, 1, 1), True, ["epoch", "death", "epoch", "died"]),
    ],
)
def test_a_gang_that_trained_is_tried_again_where_it_is(monkeypatch, before, epochs, free, kinds):
    """epochs: which each attempt reports. free: whether the actors of its ranks are there."""
    left = list(epochs)

    def run_trial(config, bank, store, report, **how):
        if left.pop(0):
            report({"epoch": 1})
        if left:
            raise RankError(1, -9, "")

    reported = []
    fields = FIELDS | {"engine": "ddp", "ranks": 2, "batch_size": 50}
    job = {"config": fields, "bank": "", "store": "store", "token": "", "gone": [], "how": {}}
    monkeypatch.setattr(channel, "document", lambda sweep, trial: job)
    monkeypatch.setattr(trial_actor, "run_trial", run_trial)
    monkeypatch.setattr(trial_actor.RayLauncher, "may_try_again", lambda self: free)
    monkeypatch.setattr(trial_actor.tune, "report", reported.append)
    fails = kinds[-1] == "died"
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        space = {"ranks": 2, "cpus": 1.0, "gpus": 0.0, "placement": "pack", "deaths": before}
        trial_actor.trainable({"sweep": "s", "trial": "t", **space})
    assert [row.get("outcome") or next(iter(row)) for row in reported] == kinds


@pytest.mark.parametrize("address", [None, "auto"])
def test_an_engine_that_is_missing_is_said_before_anything_is_built(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    config = make_config(FIELDS | {"engine": "deepspeed"})
    with pytest.raises(ValueError, match="deepspeed"):
        check_fits([config], Resources(address=address))


def test_ranks_share_no_gpu():
    two = make_config(FIELDS | {"engine": "ddp", "ranks": 2})
    resources = Resources(address="auto", gpus_per_trial=0.5)
    check_fits([make_config(FIELDS)], resources)
    with pytest.raises(ValueError, match="ranks"):
        check_fits([two], resources)


def test_trials_that_differ_in_nothing_but_ranks_are_one_where_ranks_may_change():
    text = GRID.format(engines="single, ddp", epochs=1)
    grid = read_grid(text + "seeds: 2\n", "here", "engines")
    assert len(expand(grid)) == 4
    grid.fixed.update(elastic="exact", accumulate=2)
    assert len(expand(grid)) == 2
