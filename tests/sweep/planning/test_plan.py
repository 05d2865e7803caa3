"""The dry run: exact sizes, what would be fetched, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shards.bank.writer import BankWriter
from shards.building.build import build
from shards.building.estimate import bank_bytes, bank_passes
from shards.building.request import Request
from sweep.grids import named_grids
from sweep.planning.banks import plan_banks
from sweep.planning.calibration import own_file, write_calibration
from sweep.planning.costs import wall_seconds
from sweep.planning.expand import expand
from sweep.planning.grid import load_grid
from sweep.planning.kinds import kind_of
from sweep.planning.plan import plan_sweep
from sweep.planning.prices import read_prices
from sweep.planning.remaining import REUSED, STARTING
from sweep.planning.resources import Resources
from sweep.planning.room import bytes_needed, check_room
from sweep.planning.sizes import student_of
from sweep.planning.trial_seconds import Seconds, nominal, seconds_of
from sweep.run import main
from tests.calibrated import calibrated
from trainers.canonical import make_config

ROOT = Path(__file__).parents[3]


def dry(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "sweep.run", *options, "--dry-run"]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
    )
    assert not [p for p in tmp_path.rglob("*") if p.name in ("runs", "journal.jsonl", "banks")]
    return ran


@pytest.mark.thorough
def test_dry_run_of_the_full_grid_lists_sizes_views_and_downloads(tmp_path: Path) -> None:
    write_calibration(str(tmp_path / "a.yaml"), calibrated(expand(load_grid("full"))))
    ran = dry(tmp_path, "--grid", "full", "--calibration", "a.yaml")
    assert ran.returncode == 0, ran.stderr
    assert "120 trials" in ran.stdout
    for total in ("497,773", "2,001,345", "7,999,586"):
        assert ran.stdout.count(total) == 4
    assert "to download: data set cifar10" in ran.stdout
    assert "to download: weights of ViT-B-32 (openai)" in ran.stdout
    assert "bytes" in ran.stdout
    assert "RANDOM" not in ran.stderr
    assert max(map(len, ran.stdout.splitlines())) <= 80
    views = "distinct views of a sample: clean 1, crop_flip:4 8, noise:0.1 8, noise_denoise:0.1 8"
    assert views in " ".join(ran.stdout.split())


def test_dry_run_of_the_paper_grid_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_calibration("a.yaml", calibrated(expand(load_grid("paper"))))

    def paper(*options: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["--grid", "paper", *options, "--dry-run", "--calibration", "a.yaml"])
        return int(ended.value.code or 0)

    assert paper("--json", "--cpus", "4") == 0
    plan = json.loads(capsys.readouterr().out)
    totals = {row["student"]: row["parameters"] for row in plan["trials"]}
    assert totals == {"width:1": 811_264, "width:2": 1_405_440, "width:4": 2_732_032}
    assert len(plan["trials"]) == 12
    assert not any(row["finished"] for row in plan["trials"])
    (bank,) = plan["banks"]
    passes = bank_passes(Request.model_validate(bank["request"]))
    assert bank["seconds"] == passes * 0.25
    found = plan["estimate"]
    assert found["hours"]["build"] == pytest.approx(passes * 0.25 / 3600)
    seen = 3905 * 64  # steps of five epochs, and their batches
    each = seen * (1e-3 + 1e-4) + 6 * (0.1 + 2000 * 1e-4)  # with six observations of 2 x 1,000
    assert found["hours"]["training"] == pytest.approx(12 * each / 3600)
    # Teacher and student see every image of every step, one trial after another.
    assert found["paper_seconds"] > 12 * seen * (0.25 + 1e-3)
    assert found["wall_seconds"] < found["paper_seconds"] / 4
    assert len(plan["downloads"]) == 2
    views = {(row["arm"], row["distinct_views"]) for row in plan["trials"]}
    assert views == {("clean", 1), ("crop_flip:4", 5)}
    assert paper("--set", "epochs=10") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "5 of arm crop_flip:4 for 10 epochs" in line


@pytest.mark.parametrize("name", sorted(named_grids()))
def test_every_grid_is_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trials = expand(load_grid(name))
    known, store = calibrated(trials), str(tmp_path / "store")
    plan = plan_sweep(trials, store, known, read_prices(None), Resources())
    assert [row.id for row in plan.trials] == [config.identity for config in trials]
    data = {(config.dataset, config.teacher) for config in trials}
    assert len(plan.banks) >= len({dataset for dataset, _ in data})
    assert plan.bytes > 0
    assert plan.estimate.total_money > 0
    assert not list(tmp_path.iterdir())


RESOURCES = """
fixed: {dataset: digits, teacher: embedded, student: width:1, epochs: 1}
seeds: 4
resources: {cpus: CPUS}
"""


@pytest.mark.parametrize(
    ("cpus", "options", "said"),
    [
        (64, (), "a trial with 1 ranks needs 64 CPUs, there are 2; lower"),
        (2, ("--cpus", "1"), "a trial with 1 ranks needs 2 CPUs, there are 1; lower"),
        (64, ("--cpus", "16"), "1 ranks need 64 CPU cores; the plan is for 16; raise --cpus"),
        (64, ("--cpus", "64"), ""),  # not of this machine
        (64, ("--address", "auto", "--cpus", "64"), ""),
        (2, (), ""),
    ],
)
def test_a_dry_run_refuses_what_the_sweep_refuses(
    cpus: int,
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    Path("mine.yaml").write_text(RESOURCES.replace("CPUS", str(cpus)))
    write_calibration(str(own_file()), calibrated(expand(load_grid("./mine.yaml"))))
    with pytest.raises(SystemExit) as ended:
        main(["--grid", "./mine.yaml", "--dry-run", *options])
    assert (ended.value.code or 0) == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_bank_sizes_are_those_of_the_columns() -> None:
    request = Request(
        dataset="digits", teachers=("embedded",), arms=("noise:0.1",), views=2, train_samples=100,
        test_samples=50,
    )  # fmt: skip
    assert bank_passes(request) == 100 * 3 + 50
    assert bank_bytes(request) > 150 * 32 * 32 * 3


def test_room_is_counted_for_student_copy_and_checkpoints() -> None:
    trials = expand(load_grid("demo"))[:2]
    parameters = sum(student_of(config).parameters.total for config in trials)
    assert bytes_needed(trials, []) == 4 * parameters * (1 + 1 + 2 * 3)


@pytest.mark.parametrize(
    ("threads", "cpus", "rounds"), [(1, 1, 3), (1, 8, 1), (2, 6, 1), (4, 2, 3)]
)
def test_the_first_estimate_fills_the_cores(threads: int, cpus: int, rounds: int) -> None:
    trials = [c.model_copy(update={"threads": threads}) for c in expand(load_grid("demo"))[:3]]
    seconds = {config.identity: Seconds(REUSED, 6.0, 3.0, 1.0) for config in trials}
    whole = wall_seconds(trials, seconds, Resources(cpus=cpus))
    assert whole == pytest.approx(STARTING + rounds * (REUSED + 10.0))


@pytest.mark.parametrize(
    ("resources", "rounds"),
    [
        (Resources(cpus=4), 1),
        (Resources(cpus=4, concurrent=2), 2),
        (Resources(cpus=4, concurrent=1), 3),
    ],
)
def test_the_first_estimate_keeps_to_max_concurrent(resources: Resources, rounds: int) -> None:
    trials = expand(load_grid("demo"))[:3]
    seconds = {config.identity: Seconds(REUSED, 6.0, 3.0, 1.0) for config in trials}
    whole = wall_seconds(trials, seconds, resources)
    assert whole == pytest.approx(STARTING + rounds * (REUSED + 10.0))


def test_seconds_of_a_trial_are_those_of_its_passes() -> None:
    """Twice the epochs train twice as long; measuring is the same, and so are its passes."""
    config = expand(load_grid("demo"))[0].model_copy(update={"curve_every": None})
    double = config.model_copy(update={"epochs": 16})
    kinds = kind_of(config), kind_of(double)
    once, twice = (seconds_of(kind, nominal(kind, a_sample=0.003)) for kind in kinds)
    assert once.training == pytest.approx(0.003 * 8 * (1438 // 64) * 64)
    assert twice.training == pytest.approx(2 * once.training)
    assert (twice.embedding, twice.probing) == (once.embedding, once.probing)
    # Clean images, test images again for the spectrum, both again for `retained`, three arms.
    assert config.adapt_arms == ()
    images = 2 * (1438 + 359) + 359 + 3 * config.test_views * 359
    assert once.embedding == pytest.approx(0.001 * images)


def test_checkpoints_are_counted_of_as_many_trials_as_run_at_a_time() -> None:
    trials = expand(load_grid("demo"))
    parameters = sorted(student_of(config).parameters.total for config in trials)
    two = bytes_needed(trials, [], at_a_time=2)
    assert two == 4 * (2 * sum(parameters) + 6 * sum(parameters[-2:]))


def free(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let disks have so many bytes left."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=count))


def test_a_sweep_has_room_where_its_trials_do_not_run_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path)
    trials = [c for c in expand(load_grid("demo")) if c.student == "width:1" and c.arm == "clean"]
    banks = sum(bank_bytes(job.request) for job in plan_banks(trials, store)[1])
    assert len(trials) == 8
    free(banks + bytes_needed(trials, [], at_a_time=2), monkeypatch)
    check_room(trials, store, Resources(cpus=2))
    check_room(trials, store, Resources(cpus=8, concurrent=2))
    for resources, early_stopping in (
        (Resources(cpus=3), False),
        (Resources(cpus=2), True),  # those that are stopped keep their checkpoints
        (Resources(address="auto"), False),
    ):
        with pytest.raises(OSError, match="bytes needed"):
            check_room(trials, store, resources, early_stopping=early_stopping)


def test_shards_of_an_interrupted_build_need_no_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"dataset": "digits", "teacher": "embedded", "student": "width:0.25", "test_arms": []}
    config = make_config(fields | {"train_samples": 40, "test_samples": 20})
    store = str(tmp_path / "store")
    _, (job,) = plan_banks([config], store)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BankWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        build(job.request, job.location)
    shards = list(Path(job.location).glob("*.tar"))
    published = sum(shard.stat().st_size for shard in shards)
    assert published > bank_bytes(job.request) / 2
    free(bytes_needed([config], [job]) - published, monkeypatch)
    check_room([config], store, Resources(cpus=1))
    shards[0].unlink()
    with pytest.raises(OSError, match="bytes needed"):
        check_room([config], store, Resources(cpus=1))


def test_too_little_room_names_both_numbers(tmp_path: Path) -> None:
    trials = expand(load_grid("full"))
    grown = [c.model_copy(update={"train_samples": 50_000, "views": 4096}) for c in trials]
    with pytest.raises(OSError, match=r"[\d,]+ bytes needed, [\d,]+ bytes free"):
        check_room(grown, str(tmp_path / "not" / "there" / "yet"), Resources())
