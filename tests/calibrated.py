"""A calibration with round numbers for all that a grid needs, so that nothing is timed."""

from __future__ import annotations

from sweep.planning.calibration import Calibration, Measuring, Overhead, StudentSpeed
from sweep.planning.kinds import kinds_of, macs_of
from trainers.config.schema import TrialConfig

OVERHEAD = Overhead(start=10.0, worker=2.0, trial=1.0, behind=0.5)


def calibrated(trials: list[TrialConfig], device: str = "cpu") -> Calibration:
    """1 ms a training sample, 0.1 ms an embedding and an arm, 3 s of probes, 0.25 s a teacher."""
    kinds = [kind for kind, _ in kinds_of(trials)]
    return Calibration(
        device=device,
        overhead=OVERHEAD,
        students={
            kind.student: StudentSpeed(macs=macs_of(kind), train=1e-3, embed=1e-4) for kind in kinds
        },
        arms={key: 1e-4 for kind in kinds for key in (kind.arm, *kind.test_arms)},
        measuring={
            kind.measuring: Measuring(
                train=kind.train, test=kind.test, seconds=3.0, train_views=2, test_views=12
            )
            for kind in kinds
        },
        curves={kind.curve: 0.1 for kind in kinds},
        teachers={kind.teacher: 0.25 for kind in kinds},
    )
