"""A model as the engines call it: in the trial's precision, its BatchNorm as the trial says."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.batchnorm import GlobalStatistics, KeptStatistics

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Outer(nn.Module):
    """`model` under autocast (parameters stay float32) and, in training, under `statistics`.

    Its output is float32 again, for the objective. A module, so that DDP and DeepSpeed may wrap
    it: what is applied here is applied inside theirs.
    """

    def __init__(
        self, model: nn.Module, statistics: GlobalStatistics | KeptStatistics | None, precision: str
    ) -> None:
        super().__init__()
        self.model, self.statistics, self.precision = model, statistics, precision

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with contextlib.ExitStack() as stack:
            if self.precision in DTYPES:
                dtype = DTYPES[self.precision]
                # Without its cache of converted weights, which CUDA graphs could not replay.
                kind = x_BCHW.device.type
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))
            if self.statistics is not None and self.model.training:
                stack.enter_context(self.statistics)
            y_BD = self.model(x_BCHW)
        return y_BD.float() if self.precision in DTYPES else y_BD


def wants_global_statistics(config: TrialConfig, ranks: int) -> bool:
    return config.sync_batchnorm and ranks > 1
