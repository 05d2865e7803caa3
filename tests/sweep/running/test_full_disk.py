"""Disks that fill up during a sweep: the store's, and the one that MLflow's database is on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.shards.building.test_full_disk import mounted

HERE = Path(__file__).parents[3]
GRID = {
    "name": "disks",
    "fixed": {
        "dataset": "digits", "train_samples": 40, "test_samples": 20, "teacher": "embedded",
        "epochs": 2, "batch_size": 8, "test_arms": [], "adapt_arms": [], "test_views": 1,
        "probes": ["spectrum"],
    },
    "axes": {"student": ["width:0.25", "width:4"]},
    "seeds": 1,
}  # fmt: skip

# MLflow's file system takes its tables and not its rows. In the store's, 20 MB are left when the
# trials begin: enough for a checkpoint of the small student, and not for one of the large.
SCRIPT = """\
mkdir small/mlflow && mount -t tmpfs -o size=1000k none small/mlflow || exit 99
uri=sqlite:///$PWD/small/mlflow/m.db
(
    until [ -e small/store/trials ]; do sleep 0.02; done
    free=$(df --output=avail -B1 small | tail -1)
    head -c $((free - 20000000)) /dev/zero > small/filler
) &
"$0" -m sweep.run --grid grid.yaml --out run --store small/store --cpus 1 --save-seconds 0 \
    --tracking-uri $uri
echo "sweep ended with $?" >&2
find small -name "*.tmp" -o -name "*.old" -o -name "*-journal" | sed "s/^/left /" >&2
mount -o remount,size=40m small/mlflow
"$0" -m sweep.sync run --tracking-uri $uri
echo "sync ended with $?" >&2
cp small/mlflow/m.db . && cp -r small/store/trials .
"""


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_disks_cost_one_trial_and_a_later_upload(tmp_path: Path, tools: Any) -> None:
    (tmp_path / "grid.yaml").write_text(json.dumps(GRID))
    command = mounted("100m", tmp_path / "small")
    done = subprocess.run(
        [*command, "sh", "-c", SCRIPT, sys.executable],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    during, after = done.stderr.split("sweep ended with 1\n")
    (failed,) = [line for line in during.splitlines() if line.startswith("failed:")]
    said = r"no space to write (\S+)/small/store/trials/(\w+)/checkpoints/step-00000001: "
    found = re.search(said + r"[\d,]+ bytes needed, [\d,]+ bytes free; make room", failed)
    assert found, failed
    (line,) = [line for line in during.splitlines() if line.startswith("warning:")]
    assert f"no space to write {tmp_path}/small/mlflow/m.db: " in line
    assert "`python -m sweep.sync run` uploads the rest" in line
    assert "Traceback" not in done.stderr
    assert "left " not in after
    assert after.endswith("sync ended with 0\n")

    (large,) = [e["trial"] for e in tools.events(tmp_path / "run", "failed")]
    (small,) = [e["trial"] for e in tools.events(tmp_path / "run", "result")]
    assert large == found[2]
    results = [path.parent.name for path in (tmp_path / "trials").glob("*/result.json")]
    assert results == [small]
    query = "select t.value, status, (select count(*) from metrics m where m.run_uuid = r.run_uuid)"
    query += " from runs r join tags t using (run_uuid) where t.key = 'sweep.trial'"
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as database:
        stored = {trial: (status, rows > 0) for trial, status, rows in database.execute(query)}
    assert stored == {small: ("FINISHED", True), large: ("FAILED", False)}  # no epoch yet
