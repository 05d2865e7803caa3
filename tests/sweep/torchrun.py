"""A trial as torchrun, or one process, runs it without Ray, to compare with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainers.results.folder import read_result

ROOT = Path(__file__).parents[2]


def by_torchrun(config: dict[str, Any], bank: Path, out: Path) -> Any:
    """The result of the trial where torchrun starts its ranks on this machine.

    A trial of one rank is started without torchrun.
    """
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    command, ranks = [sys.executable], str(config["ranks"])
    if config["ranks"] > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    command += ["-m", "trainers.trial", str(file), "--bank", str(bank)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "--out", str(out)], check=False, capture_output=True, text=True, env=env
    )
    assert ran.returncode == 0, ran.stderr
    (path,) = out.glob("trials/*/result.json")
    return read_result(str(path))
