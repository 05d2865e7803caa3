"""Precomputed teacher embeddings of augmented images, on disk. Knows no student."""

from shards.bank.rows import rows

__all__ = ["rows"]
