"""`precision: auto`: one choice for all trials of a sweep, by the time that training takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.planning import precision
from sweep.planning.calibration import Calibration, StudentSpeed, write_calibration
from sweep.planning.expand import expand
from sweep.planning.grid import Grid, check_combinations, is_auto, read_grid
from sweep.planning.kinds import kind_of
from sweep.planning.precision import FILE, choose, record, with_precision
from sweep.planning.settings import override
from tests.sweep.conftest import run
from trainers.results.folder import read_result

TEXT = """\
name: chosen
fixed: {dataset: digits, teacher: embedded, precision: auto, epochs: 1, train_samples: 64,
  test_samples: 20, batch_size: 32, probes: [spectrum], test_arms: []}
axes: {student: ["width:0.25", "width:1"]}
"""


def grid_of(text: str = TEXT) -> Grid:
    return read_grid(text, "test", "test")


def speeds_of(**seconds: float) -> dict[tuple[str, str], float]:
    """The same for both students."""
    students = ("width:0.25", "width:1")
    return {(student, name): value for student in students for name, value in seconds.items()}


def calibration(path: Path, grid: Grid, speeds: dict[tuple[str, str], float]) -> str:
    """A file in which {(student, precision): seconds of a training sample} were measured."""
    students = {
        kind_of(config).student: StudentSpeed(macs=1, embed=1, train=speeds[config.student, name])
        for name in ("fp32", "bf16")
        for config in expand(with_precision(grid, name))
    }
    write_calibration(str(path), Calibration(device="cpu", date="2026-01-01", students=students))
    return str(path)


@pytest.mark.parametrize(
    ("large_in_half", "expected"), [(1.0, "bf16"), (2.95, "fp32"), (3.5, "fp32")]
)
def test_the_sum_over_all_students_decides(
    tmp_path: Path, large_in_half: float, expected: str
) -> None:
    # The small student alone would take fp32, the large one bf16 wherever it is faster at all.
    speeds = {("width:0.25", "fp32"): 1.0, ("width:0.25", "bf16"): 1.1, ("width:1", "fp32"): 3.0}
    grid = grid_of()
    file = calibration(tmp_path / "c.yaml", grid, speeds | {("width:1", "bf16"): large_in_half})
    chosen = choose(grid, str(tmp_path / "store"), file)
    assert chosen.precision == expected
    assert chosen.seconds["fp32"] == pytest.approx(64 * 4.0)
    assert chosen.seconds["bf16"] == pytest.approx(64 * (1.1 + large_in_half))
    assert not (tmp_path / "store").exists()
    trials = expand(with_precision(grid, chosen.precision))
    assert [config.precision for config in trials] == [expected] * 2


def test_a_recorded_choice_stays(tmp_path: Path) -> None:
    grid, store = grid_of(), str(tmp_path / "store")
    slow = speeds_of(fp32=1.0, bf16=2.0)
    fast = {key: 1 / seconds for key, seconds in slow.items()}
    first = choose(grid, store, calibration(tmp_path / "slow.yaml", grid, slow))
    record(store, grid.name, first)
    again = choose(grid, store, calibration(tmp_path / "fast.yaml", grid, fast))
    assert again == first
    assert first.precision == "fp32"
    other = read_grid(TEXT.replace("chosen", "other"), "test", "test")
    assert choose(other, store, str(tmp_path / "fast.yaml")).precision == "bf16"
    record(store, grid.name, other_choice := choose(other, store, str(tmp_path / "fast.yaml")))
    # On a cluster too, where this machine's own times may not decide.
    assert choose(grid, store, None, here=False) == first != other_choice
    with pytest.raises(ValueError, match="on a cluster it needs the --calibration FILE"):
        choose(grid, str(tmp_path / "empty"), None, here=False)


def test_a_damaged_record_and_a_calibration_without_a_student_are_named(tmp_path: Path) -> None:
    grid = grid_of()
    write_calibration(str(tmp_path / "c.yaml"), Calibration(device="L4"))
    with pytest.raises(ValueError, match=r"calibration of L4: no students of `width:0.25 .* fp32"):
        choose(grid, str(tmp_path), str(tmp_path / "c.yaml"))
    (tmp_path / FILE).write_text('{"grids": {"chosen": {"precision": "bf16"')
    with pytest.raises(ValueError, match=FILE):
        choose(grid, str(tmp_path), None)


def test_auto_is_fixed_for_the_whole_grid_or_a_part() -> None:
    without = TEXT.replace(" precision: auto,", "")
    with pytest.raises(ValueError, match=r"axes\.precision: `auto` is one choice for all; fix it"):
        grid_of(without.replace("axes: {", "axes: {precision: [auto, fp32], "))
    in_part = without + "parts: [{fixed: {precision: auto}}]\n"
    for grid in (grid_of(), grid_of(in_part)):
        check_combinations(grid)
        assert is_auto(grid)
        assert not is_auto(with_precision(grid, "bf16"))
        assert {c.precision for c in expand(with_precision(grid, "bf16"))} == {"bf16"}
    explicit = grid_of(TEXT.replace("auto", "fp16"))
    assert not is_auto(explicit)
    assert with_precision(explicit, "bf16") == explicit
    assert is_auto(override(explicit, ["precision=auto"], None))


def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    grid = grid_of()
    first = choose(grid, str(tmp_path / "store"), None)
    assert min(first.seconds.values()) > 0
    assert first.precision in ("fp32", "bf16")
    monkeypatch.setattr(precision, "student_speed", None)  # a call of it would fail
    assert choose(grid, str(tmp_path / "store"), None).seconds == first.seconds


@pytest.mark.ray
def test_a_sweep_writes_its_choice_into_every_trial(tmp_path: Path) -> None:
    file, folder = tmp_path / "grid.yaml", tmp_path / "run"
    file.write_text(TEXT)
    without = run(file, folder, "--address", "127.0.0.1:1", "--allow-open-ray")
    assert without.code == 2
    assert "precision: auto: on a cluster it needs the --calibration FILE" in without.err
    swept = run(file, folder, "--cpus", "2")
    assert swept.code == 0, swept.err
    recorded = json.loads((folder / FILE).read_text())["grids"]["chosen"]
    assert f"precision: {recorded['precision']} (cpu" in swept.err
    results = [read_result(str(path)) for path in folder.glob("trials/*/result.json")]
    assert [result.config["precision"] for result in results] == [recorded["precision"]] * 2
    # The store's choice is taken, whatever this machine would choose.
    other = {"fp32": "bf16", "bf16": "fp32"}[recorded["precision"]]
    changed = {"grids": {"chosen": recorded | {"precision": other}}}
    (folder / FILE).write_text(json.dumps(changed))
    planned = run(file, folder, "--dry-run")
    assert f"precision: {other} (cpu" in planned.err, planned.err
    assert json.loads((folder / FILE).read_text()) == changed
