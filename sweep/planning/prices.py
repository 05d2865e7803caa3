"""Prices that turn hours, bytes and requests into money: a small table that its user edits."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Annotated

from pydantic import Field

from shards.support import storage
from shards.support.schema import StrictModel, validated
from shards.support.yaml_reader import parse_mapping

FILE = "prices.yaml"
OTHER = "other"
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Prices(StrictModel):
    """The fields of prices.yaml, which explains them. All are required but a GPU's own price."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    gpu_hour: Mapping[str, Price]
    cpu_hour: Price
    head_hour: Price
    setup_seconds: Price
    storage_gb_month: Price
    put_thousand: Price
    get_thousand: Price

    def hour(self, device: str) -> float:
        """Of one GPU of that name, or of one core (`cpu`). Raises: ValueError without a price."""
        if device == "cpu":
            return self.cpu_hour
        for name in (device, OTHER):
            if name in self.gpu_hour:
                return self.gpu_hour[name]
        raise ValueError(f"prices: gpu_hour: no price of `{device}`, and no `{OTHER}`; add one")


def read_prices(path: str | None) -> Prices:
    """The table in a file; None: the one that comes with the package.

    Raises: ValueError, of one line, for a wrong file; OSError.
    """
    if path is None:
        text = resources.files("sweep.planning").joinpath(FILE).read_text(encoding="utf-8")
        return validated(Prices, parse_mapping(text, FILE), FILE)
    text = storage.read(path).decode(errors="replace")
    return validated(Prices, parse_mapping(text, path), path)
