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

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]
SMALL = ["train_samples=100", "test_samples=40", "batch_size=50", "epochs=1", "views=1"]
# The example's grid, cut down, and a gang of two that uses both the objective and the arm.
PARTS = """\
parts:
  - fixed: {objective: cosine, arm: clean}
  - fixed: {objective: l1, arm: clean}
  - fixed: {objective: l1, arm: shift_flip, engine: ddp, ranks: 2}
"""


def run(grid: Path, folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "sweep.run", "--grid", str(grid), "--out", str(folder)]
    for setting in SMALL:
        command += ["--set", setting]
    ran = subprocess.run(
        [*command, "--seeds", "1", *options], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = (json.loads(path.read_text()) for path in folder.glob("trials/*/result.json"))
    return {result["id"]: result for result in found}


@pytest.mark.timeout(900)
def test_an_edited_plugin_gives_new_trials_and_no_wrong_old_ones(
    cluster: Any, tmp_path: Path
) -> None:
    source, folder = example(tmp_path / "grids"), tmp_path / "run"
    grid = source.with_name("plugin.yaml")
    grid.write_text((EXAMPLES / grid.name).read_text() + PARTS)
    run(grid, folder, "--address", cluster.address, "--allow-open-ray")
    (spec,) = [found.spec for found in sources("mine", [source.parent])]
    before = results(folder)
    using = {name for name, result in before.items() if "plugins" in result["config"]}
    assert (len(before), len(using)) == (3, 2)
    for name, result in before.items():
        uses = [spec] if result["config"]["objective"] == "l1" else None
        assert result["config"].get("plugins") == uses, name
    assert (folder / "plugins" / spec.replace("@", "-") / "mine.py").is_file()
    with sqlite3.connect(folder / "mlflow.db") as database:
        tags = list(database.execute("select value from tags where key = 'plugin.mine'"))
    assert tags == [(spec.partition("@")[2],)] * 2

    # Another loss: other numbers, and so other trials.
    source.write_text(source.read_text().replace(".abs()", ".square()"))
    run(grid, folder, "--address", cluster.address, "--allow-open-ray", "--only", "engine=ddp")
    after = results(folder)
    assert {name: after[name] for name in before} == before
    (gang,) = (after[name] for name in after.keys() - before.keys())
    (old,) = (result for result in before.values() if result["config"]["engine"] == "ddp")
    assert gang["epochs"][0]["loss"] != old["epochs"][0]["loss"]
    assert gang["source"] != old["source"]  # the bank of the edited arm

    # Numbers are read without the plugin; old and new trials are groups of their own.
    study = sweep.load(folder)
    assert "mine" not in sys.modules
    assert {"objective", "arm", "plugins"} <= set(study.axes)
    assert "l1_weight" not in study.axes
    assert "l1_weight" in study.fields
    trial = folder / "trials" / gang["id"]
    command = [sys.executable, "-m", "trainers.probe", str(trial), "--probe", "spectrum"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "none is on sys.path; a copy is in plugins/mine-" in line
