"""The example's objective and arm, on a cluster whose nodes know nothing of them but from Ray.

Banks are built by Ray's workers, a gang has a rank on each of two nodes, and the grid's folder is
neither on anyone's sys.path nor the working directory.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sweep
from shards.support.plugin_source import sources
from tests.plugins import EXAMPLES, example

pytestmark = [pytest.mark.ray, pytest.mark.cluster]
SMALL = ["train_samples=100", "test_samples=40", "batch_size=50", "epochs=1", "views=1"]
GANG = """\
parts:
  - fixed: {engine: single}
  - fixed: {engine: ddp, ranks: 2, objective: l1, arm: shift_flip}
"""


def write_grid(folder: Path) -> Path:
    """The example's, and a gang of two that uses both the objective and the arm."""
    grid = folder / "plugin.yaml"
    grid.write_text((EXAMPLES / "plugin.yaml").read_text() + GANG)
    return grid


def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = (json.loads(path.read_text()) for path in folder.glob("trials/*/result.json"))
    return {result["id"]: result for result in found}


@pytest.mark.timeout(600)
def test_an_edited_plugin_gives_new_trials_and_no_wrong_old_ones(
    cluster: Any, tools: Any, tmp_path: Path
) -> None:
    source = example(tmp_path / "grids")
    grid, folder = write_grid(source.parent), tmp_path / "run"
    options = ["--address", cluster.address, "--seeds", "1"]
    for setting in SMALL:
        options += ["--set", setting]
    first = tools.run(grid, folder, *options)
    assert first.code == 0, first.err
    (spec,) = [found.spec for found in sources("mine", [source.parent])]
    before = results(folder)
    using = {name for name, result in before.items() if "plugins" in result["config"]}
    assert (len(before), len(using)) == (5, 4)
    for name, result in before.items():
        config = result["config"]
        uses = config["objective"] == "l1" or config["arm"] == "shift_flip:2"
        assert config.get("plugins") == ([spec] if uses else None), name
    assert (folder / "plugins" / spec.replace("@", "-") / "mine.py").is_file()
    with sqlite3.connect(folder / "mlflow.db") as database:
        tags = list(database.execute("select value from tags where key = 'plugin.mine'"))
    assert tags == [(spec.partition("@")[2],)] * 4

    # Another loss: other numbers, and so other trials.
    source.write_text(source.read_text().replace(".abs()", ".square()"))
    again = tools.run(grid, folder, *options, "--only", "arm=shift_flip", "--only", "objective=l1")
    assert again.code == 0, again.err
    after = results(folder)
    new = [after[name] for name in after.keys() - before.keys()]
    assert {name: after[name] for name in before} == before
    assert sorted(result["config"]["engine"] for result in new) == ["ddp", "single"]
    old = [r for r in before.values() if r["config"]["engine"] == "ddp"]
    (gang,) = [r for r in new if r["config"]["engine"] == "ddp"]
    assert gang["epochs"][0]["loss"] != old[0]["epochs"][0]["loss"]
    assert gang["source"] != old[0]["source"]  # the bank of the edited arm

    # Numbers are read without the plugin; old and new trials are groups of their own.
    study = sweep.load(folder)
    assert "mine" not in sys.modules
    assert {"objective", "arm", "engine", "plugins"} <= set(study.axes)
    assert "l1_weight" not in study.axes
    assert "l1_weight" in study.fields
    trial = folder / "trials" / gang["id"]
    command = [sys.executable, "-m", "trainers.probe", str(trial), "--probe", "spectrum"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "none is on sys.path; a copy is in plugins/mine-" in line
