"""Precomputed teacher embeddings of augmented images, on disk. Knows no student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shards.bank.rows import rows

if TYPE_CHECKING:
    from shards.bank.dataset import Bank

__all__ = ["Bank", "rows"]


def __getattr__(name: str) -> Any:
    # On demand: it imports torch, which no command's --help should wait for.
    if name == "Bank":
        from shards.bank.dataset import Bank

        return Bank
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
