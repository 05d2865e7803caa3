"""Which of TrialConfig's fields about engines and ranks go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

UNNAMED: dict[str, set[str]] = {"off": set(), "order": {"ranks"}, "exact": {"ranks", "engine"}}
LEAST_MICRO_BATCH = 2


class Fields(Protocol):
    """Those of TrialConfig that are looked at here."""

    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def ranks(self) -> int: ...
    @property
    def elastic(self) -> str: ...
    @property
    def cuda_graphs(self) -> bool: ...


def idle(name: str, value: Any, before: Mapping[str, Any]) -> bool:
    """Whether a field changes nothing, given those before it (a refused one is not there)."""
    engine, ranks = before.get("engine", "single"), before.get("ranks", 1)
    if name == "elastic":  # one process keeps its order anyway
        return engine == "single" and value == "order"
    if name == "sync_batchnorm":  # each virtual micro-batch has its own; one rank has all
        elastic = before.get("elastic", "off")
        return engine == "single" or elastic == "exact" or (elastic == "off" and ranks == 1)
    if name == "offload":
        return engine != "deepspeed" or before.get("zero_stage", 0) == 0
    return engine != "deepspeed"


def check_ranks(config: Fields) -> None:
    """Raises: ValueError, one line with the field, what was found and what would be right."""
    ranks, exact = config.ranks, config.elastic == "exact"
    if config.engine == "single" and ranks != 1:
        raise ValueError(f"ranks: {ranks} with engine `single`; choose 1, or engine `ddp`")
    if config.engine == "deepspeed" and config.elastic != "off":
        raise ValueError(
            f"elastic: `{config.elastic}` with engine `deepspeed`; choose off, or engine `ddp`"
        )
    if exact and config.cuda_graphs:
        raise ValueError("cuda_graphs: true with elastic: exact; set one of them to false or off")
    if exact and config.accumulate % ranks:
        raise ValueError(
            f"accumulate: {config.accumulate} is not divisible by {ranks} ranks (elastic: exact); "
            f"nearest: {_nearest(config.accumulate, ranks)}"
        )
    parts = [] if exact or ranks == 1 else [f"{ranks} ranks"]
    parts = [f"{config.accumulate} micro-batches", *parts] if config.accumulate > 1 else parts
    unit = config.accumulate * (1 if exact else ranks)
    if config.batch_size % unit:
        raise ValueError(
            f"batch_size: {config.batch_size} is not divisible by {' of '.join(parts)}; "
            f"nearest: {_nearest(config.batch_size, unit)}"
        )
    if config.batch_size < LEAST_MICRO_BATCH * config.accumulate:
        most = config.batch_size // LEAST_MICRO_BATCH
        raise ValueError(
            f"accumulate: {config.accumulate} leaves micro-batches of "
            f"{config.batch_size // config.accumulate} sample; choose at most {most}"
        )


def _nearest(value: int, unit: int) -> str:
    low = value // unit * unit
    return f"{low} or {low + unit}" if low else str(unit)
