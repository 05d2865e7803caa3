"""The examples run as they are, on one small sweep, and the facade leads to the real things."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import distilsweep
from distilsweep import commands

ROOT = Path(__file__).parents[2]


def python(*arguments: str, cwd: Path, **variables: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"} | variables
    ran = subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=env
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def run(swept, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "small"
    shutil.copytree(swept.folder, folder)
    return folder


@pytest.mark.ray
def test_a_finished_run_is_used_from_python(run: Path) -> None:
    out = python(str(ROOT / "examples/use_a_run.py"), str(run), cwd=run.parent)
    assert "60 test images of 10 classes, 512 numbers each" in out
    assert "one picture: (1, 512)" in out
    assert "after one step the effective rank is" in out


@pytest.mark.ray
def test_a_sweep_is_run_from_python(run: Path, grid: Path) -> None:
    out = python(str(ROOT / "examples/run_a_sweep.py"), str(grid), str(run), cwd=run.parent)
    assert "axes: ['arm']" in out
    assert len([line for line in out.splitlines() if line.startswith(("clean", "noise:0.1 "))]) >= 2


@pytest.mark.ray
def test_the_notebook_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, as Jupyter runs it: with what it prints, its table and its two figures."""
    places = {"IPYTHONDIR": run.parent, "JUPYTER_RUNTIME_DIR": run.parent, "PYTHONPATH": ROOT}
    for name, value in (places | {"RUN": run}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook: Any = nbformat.read(ROOT / "examples/results.ipynb", as_version=4)
    place = {"metadata": {"path": str(run.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    outputs = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(outputs) == 4
    assert outputs[0][0]["text"] == "4 trials that differ in arm\n"
    assert "noise:0.1" in outputs[1][0]["data"]["text/html"]
    for (shown,) in outputs[2:]:
        assert len(shown["data"]["image/png"]) > 1000


def test_names_in_their_packages() -> None:
    code = (
        "import trainers.results.loaded, trainers.students, sweep\n"
        "assert trainers.students.load is trainers.load_student\n"
        "try: sweep.run('dmo')\n"
        "except ValueError as error: print(error)\n"
        "from sweep.run import main\n"
        "assert sweep.run.main is main\n"
    )
    assert "unknown grid `dmo`; did you mean `demo`" in python("-c", code, cwd=ROOT)


def test_every_command_is_one_of_distilsweep(monkeypatch, capsys) -> None:
    files = [p for room in ("shards", "trainers", "sweep") for p in (ROOT / room).glob("*.py")]
    found = {f"{p.parent.name}.{p.stem}" for p in files if "@command" in p.read_text()}
    assert found == set(commands.COMMANDS.values())
    monkeypatch.setattr(sys, "argv", ["distilsweep", "run", "--grid", "dmo"])
    with pytest.raises(SystemExit) as left:
        commands.main()
    assert left.value.code == 2
    assert "unknown grid `dmo`; did you mean `demo`" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["distilsweep", "runn"])
    with pytest.raises(SystemExit):
        commands.main()
    assert "unknown command `runn`" in capsys.readouterr().err


def test_what_every_command_does_can_be_called() -> None:
    named = {name.replace("-", "_") for name in commands.COMMANDS}
    named = named - {"trial", "cluster"} | {"train", "check_cluster"}
    assert named <= distilsweep.PARTS.keys()
    page = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in distilsweep.PARTS if f"`distilsweep.{name}" not in page] == []


def test_notebooks_and_editors_know_every_name() -> None:
    assert set(distilsweep.__all__) == distilsweep.PARTS.keys() <= set(dir(distilsweep))
    tree = ast.parse(Path(distilsweep.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == distilsweep.PARTS


@pytest.mark.parametrize("name", sorted(distilsweep.PARTS))
def test_every_part_is_found(name: str) -> None:
    assert callable(getattr(distilsweep, name))
