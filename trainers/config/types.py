"""Types of the fields of a trial. None of them converts: `5.0` is no integer, `1` is no flag."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Integer = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
# One seed for all trials, or `per_seed`: each trial's own.
DataSeed = Annotated[int, Field(ge=0, lt=2**63)] | Literal["per_seed"]
Text = Annotated[str, Field(strict=True, min_length=1)]


def without_minus_zero(value: object) -> object:
    """-0.0 as 0.0: both mean the same, but they are written differently and so hash differently."""
    return value + 0.0 if isinstance(value, float) else value
