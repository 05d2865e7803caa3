"""ForwardModule: the model in the trial's precision and with its BatchNorm statistics."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from trainers.config.schema import TrialConfig
from trainers.engines.batchnorm import GlobalStatistics, MicroBatchStatistics

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ForwardModule(nn.Module):
    """`model` under autocast (parameters stay float32) and, in training, under `statistics`.

    Its output is float32, because objectives are computed in float32. It is a module and not a
    function so that DDP and DeepSpeed can wrap it: autocast and statistics are then active inside
    their wrappers.
    """

    def __init__(
        self,
        model: nn.Module,
        statistics: GlobalStatistics | MicroBatchStatistics | None,
        precision: str,
    ) -> None:
        super().__init__()
        self.model, self.statistics, self.precision = model, statistics, precision

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with contextlib.ExitStack() as stack:
            if self.precision in DTYPES:
                # Autocast's cache of converted weights is off, because CUDA graphs cannot replay
                # a forward pass that reads it.
                stack.enter_context(
                    torch.autocast(
                        x_BCHW.device.type, dtype=DTYPES[self.precision], cache_enabled=False
                    )
                )
            if self.statistics is not None and self.model.training:
                stack.enter_context(self.statistics)
            y_BD = self.model(x_BCHW)
        return y_BD.float() if self.precision in DTYPES else y_BD


def uses_global_statistics(config: TrialConfig, ranks: int) -> bool:
    """Whether BatchNorm statistics are computed over the micro-batch of all ranks."""
    return config.sync_batchnorm and ranks > 1
