"""What one rank does in test_gang, where `launch` starts it in the place of the trial.

The trial of its arguments is run whole, then in pieces, each a run of its own with a new group and
new random state; last it is started once more, with a loss that becomes NaN. Checkpoints stay.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from trainers import runner, trial
from trainers.canonical import make_config
from trainers.objectives import OBJECTIVES
from trainers.objectives.base import Objective
from trainers.training.preemption import PreemptedError
from trainers.training.state import TrainingState

PORTS = "GANG_PORTS"
STOPS = (2, 7)  # both inside an epoch of 4 steps
NAN_AT = 2 * 6  # micro-batch: the second of step 6


@contextmanager
def noticed_at(step: int) -> Iterator[None]:
    """One rank alone gets SIGTERM before that step is counted."""
    real = TrainingState.end_step

    def stepped(self: TrainingState, loss: torch.Tensor) -> None:
        if self.step + 1 == step and self.engine.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, loss)

    with mock.patch.object(TrainingState, "end_step", stepped):
        yield


def spoilt_at(call: int):
    calls = 0

    def objective(student_BD, teacher_BD):
        nonlocal calls
        calls += 1
        loss = real(student_BD, teacher_BD)
        return loss * torch.nan if calls == call else loss

    real = OBJECTIVES["cosine"].function
    return Objective(objective)


def main() -> None:
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    config = make_config(json.load(sys.stdin))
    bank, out = options["--bank"], options["--out"]
    ports = iter(os.environ[PORTS].split())

    def run(name: str) -> None:
        """Each group meets at a port of its own: ranks are not done with the last one together."""
        os.environ["MASTER_PORT"] = next(ports)
        runner.run_trial(config, bank, f"{out}/{name}", save_seconds=0)

    with mock.patch.object(runner, "tidy"):
        run("whole")
        for stop in STOPS:
            left = pytest.raises(PreemptedError, match=f"state saved at step {stop};")
            with noticed_at(stop), left:
                run("broken")
        run("broken")
    os.environ["MASTER_PORT"] = next(ports)
    OBJECTIVES["cosine"] = spoilt_at(NAN_AT)
    sys.stdin.seek(0)
    trial.main()
