"""Nodes of Ray's fake provider appear when trials wait for them, and go when they are idle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.fake_nodes import MOST
from tests.cluster.hosts import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


@pytest.mark.timeout(700)
def test_nodes_come_for_the_trials_that_wait_and_go_when_idle(tmp_path: Path) -> None:
    unshare = ["unshare", "-p", "-f", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody make process namespaces")
    grid = ROOT / "examples" / "small.yaml"
    program = [sys.executable, "-m", "tests.cluster.fake_nodes"]
    ran = subprocess.run(
        [*unshare, *program, str(grid), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    code, before, most, after = json.loads(ran.stdout.splitlines()[-1])
    assert (code, before, most, after) == (0, 0, MOST, 0), ran.stderr
    assert len(list(tmp_path.glob("run/trials/*/result.json"))) == 4
