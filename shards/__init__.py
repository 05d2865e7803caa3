"""What a teacher said about images, on disk. Knows no student."""

from shards.bank.rows import rows

__all__ = ["rows"]
