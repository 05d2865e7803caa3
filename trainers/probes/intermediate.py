"""All probes of a trial in the middle of its training, at the times in `probe_at`.

    probe = IntermediateProbes(splits, device, stop)
    row = probe(step, model)      # {"test/rank/effective": 21.4, "test/linear/paper/accuracy": ...}

The values are what the trial would have recorded if it had ended there: same images, same names,
bit for bit. They are rows of the trial's observations, and no result; arrays are not kept. They are
of the test images, also where curves are of the validation split, and so nothing may be decided by
them: `sweep.planning.early_stopping` refuses their names.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trainers.inputs import TrialSplits
from trainers.probes.feature_banks import student_features
from trainers.probes.measure import measure
from trainers.students import build_student
from trainers.training.state import StoppedProbesError
from trainers.training.wrappers import unwrap_student

PREFIX = "test"


class IntermediateProbes:
    """A function of (step, model) that returns the values of the trial's probes.

    splits: the trial's samples. device: where the student is. stop: once it returns true, the call
    raises StoppedProbesError: probes may take longer than a process is given to end.
    """

    def __init__(
        self, splits: TrialSplits, device: torch.device, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._splits, self._device, self._stop = splits, device, stop

    def __call__(self, step: int, model: nn.Module) -> dict[str, float]:
        inputs, config = self._splits.inputs, self._splits.inputs.config
        # A copy, so that nothing that measuring does to a module reaches the one that is trained.
        size = inputs.preprocess.size
        student = build_student(config.student, inputs.teacher.dim, size, config.seed)
        student.load_state_dict(unwrap_student(model).state_dict())
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        student.to(self._device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]

        # A function and no method, which would be copied with copies of the student.
        def check(*_: object) -> None:
            self._check()

        student.register_forward_pre_hook(check)
        with torch.inference_mode():
            features = student_features(student, self._splits, self._device)
        values = measure(features, config, PREFIX, self._check)
        return {name: v for found in values.values() for name, v in found.metrics.items()}

    def _check(self) -> None:
        """Called before every pass of the student and before every probe."""
        if self._stop():
            raise StoppedProbesError
