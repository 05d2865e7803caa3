"""Nodes of Ray's fake provider come for banks and trials, which run beside each other, and go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.fake_nodes import MOST
from tests.cluster.hosts import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_nodes_come_for_what_waits_and_go_when_idle(tmp_path: Path) -> None:
    unshare = ["unshare", "-p", "-f", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody make process namespaces")
    program = [sys.executable, "-m", "tests.cluster.fake_nodes"]
    ran = subprocess.run(
        [*unshare, *program, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    code, banks, before, most, after = json.loads(ran.stdout.splitlines()[-1])
    assert code == 0, ran.stderr
    assert banks == 1  # a trial ended while the bank of the other one was built
    assert (before, most, after) == (0, MOST, 0), ran.stderr
    assert len(list(tmp_path.glob("run/trials/*/result.json"))) == 2
