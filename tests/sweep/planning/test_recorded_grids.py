"""A run folder holds one grid, which may grow, unless a second one is added on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.planning.expand import expand
from sweep.planning.grid import Grid, read_grid
from sweep.planning.recorded_grids import FILE, check_grid, record_grid
from sweep.planning.settings import override
from sweep.run import main

TEXT = "name: {}\nfixed: {{dataset: digits, teacher: embedded}}\naxes: {{student: [width:1]}}\n"


def grid(name: str) -> Grid:
    return read_grid(TEXT.format(name), f"{name}.yaml", name)


def start(folder: Path, what: Grid, add: bool = False) -> list[dict[str, str]]:
    check_grid(folder, what, add)
    record_grid(folder, what, expand(what))
    return json.loads((folder / FILE).read_text())["grids"]


def test_the_same_grid_may_grow(tmp_path: Path) -> None:
    (first,) = start(tmp_path, grid("one"))
    assert start(tmp_path, grid("one")) == [first]
    (grown,) = start(tmp_path, override(grid("one"), ["lr=0.1"], 5))
    assert grown["name"] == "one"
    assert grown["sha256"] != first["sha256"]


def test_another_grid_is_refused_or_added(tmp_path: Path) -> None:
    start(tmp_path, grid("one"))
    with pytest.raises(ValueError, match=r"holds the trials of grid `one`, this one is `two`"):
        start(tmp_path, grid("two"))
    assert [entry["name"] for entry in start(tmp_path, grid("two"), add=True)] == ["one", "two"]
    start(tmp_path, grid("one"))
    assert len(start(tmp_path, grid("two"))) == 2  # both are in the folder: no --add is needed


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_the_command_refuses_a_second_grid_in_one_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path, grid("one"))
    file = tmp_path / "two.yaml"
    file.write_text(TEXT.format("two"))
    with pytest.raises(SystemExit) as ended:
        main(["--grid", str(file), "--out", str(tmp_path), *options])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`one`" in line
    assert "--add" in line
